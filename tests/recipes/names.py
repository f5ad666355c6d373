"""The recipes that ship: those of the VTP paper (arXiv 2512.13687), and tokenizers of other papers."""

from __future__ import annotations

TABLE_1 = ("ae_vit_b", "ae_vit_l", "ae_cnn")
AUTO_ENCODERS = (
    *TABLE_1,
    "ae_abl_l",
    "ae_abl_l_d256",
    *(f"ae_l_data_{number}" for number in ("100k", "1m", "10m", "100m")),
)
COMPARED = (*AUTO_ENCODERS[len(TABLE_1) :], *(f"scale_encoder_ae_{size}" for size in "sbl"))
"""The auto-encoders of figures 4, 5 and 7, which see as many images as VTP."""
FINAL = ("vtp_s", "vtp_b", "vtp_l")
ABLATIONS = ("vtp_abl_s", "vtp_abl_b", "vtp_abl_l")
FIRST_STAGE = (
    *FINAL,
    *ABLATIONS,
    *AUTO_ENCODERS,
    "vtp_abl_l_d256",
    *(name for pair in ("clip_ae", "ssl_ae") for name in (pair, f"{pair}_d256")),
    *(f"{family}_{size}" for family in ("scale_encoder", "scale_encoder_ae") for size in "sbl"),
    *(f"scale_decoder_{depth}" for depth in (4, 12, 24)),
    *(f"vtp_l_data_{number}" for number in ("100k", "1m", "10m", "100m")),
)
SECOND_STAGE = tuple(f"{name}_gan" for name in (*FINAL, *AUTO_ENCODERS))
PAPER = (*FIRST_STAGE, *SECOND_STAGE)
CODES = ("vqgan", "unitok")
"""Tokenizers with codes, of other papers."""
FROZEN = ("rae", "raev2_k23", "dino_tok_ae", "dino_tok_vq")
"""Decoders on a frozen encoder."""
OTHERS = (*FROZEN, "va_vae")
"""Recipes of other papers than VTP's."""
GENERATORS = {
    "lightningdit_b": "vtp_l",
    "lightningdit_xl": "vtp_l",
    "dino_tok_ae_dit": "dino_tok_ae",
    "dino_tok_vq_ar": "dino_tok_vq",
}
"""Generator on latents or codes -> recipe of the tokenizer whose networks it has."""
MEASUREMENTS = ("table2",)
"""Recipes for `vtp eval -r`."""
