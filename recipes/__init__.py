"""The shipped recipes; installed as the package `vtp_recipes`."""

RENAMED = {
    "ae_vit_l_d256": "ae_abl_l_d256",
    "ae_vit_l_d256_gan": "ae_abl_l_d256_gan",
}
"""Recipes that went -> the one that took their place."""

GROUPS = {
    "To start from": (
        "quickstart",
        "quickstart_gan",
        "quickstart_dit",
        "quickstart_dit_nano",
        "dino_tok_quickstart",
        "vtp_nano",
    ),
    "Tokenizers on frozen encoders": ("dino_tok_ae", "dino_tok_vq", "rae", "raev2_k23"),
    "The final models of VTP": ("vtp_s", "vtp_s_gan", "vtp_b", "vtp_b_gan", "vtp_l", "vtp_l_gan"),
    "Generators on their latents": ("lightningdit_b", "lightningdit_xl", "dino_tok_ae_dit", "dino_tok_vq_ar"),
    "Measurements of published tables, for vtp eval -r": ("table2",),
}
"""Title in `vtp recipes list` -> recipes, in the order of a user's interest; the others come after them."""
