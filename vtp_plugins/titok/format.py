"""The `titok` format: weights and configuration of bytedance/1d-tokenizer's TiTok."""

from __future__ import annotations

import json
from pathlib import Path

import vtp_core
from vtp_core.artefact.config import EXPORTED_BY, is_export
from vtp_core.artefact.folder import replace_folder
from vtp_core.artefact.weights import write_weights
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.titok.config import TiTokConfig
from vtp_plugins.titok.decoder import TiTokDecoder
from vtp_plugins.titok.encoder import TiTokEncoder
from vtp_plugins.titok.layout import published_tensors
from vtp_plugins.titok.options import Settings, VqModel, size_name
from vtp_plugins.titok.reader import find_files, read_model
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import LearnedConfig

WEIGHTS = "model.safetensors"


class TiTokFormat:
    """Reads and writes a TiTok: parts `titok`, `vq` or `kl`, and `titok`."""

    license = "of the published weights: Apache-2.0 (bytedance/1d-tokenizer)"

    def matches(self, folder: Path) -> bool:
        """Whether it is a file of weights with these names, or a folder with exactly one."""
        try:
            return find_files(folder) is not None
        except CheckpointError:  # weights without a configuration: `read` says so
            return True
        except OSError:
            return False

    def read(self, folder: Path) -> Tokenizer:
        """The tokenizer.

        Raises:
            CheckpointError: A tensor is missing, foreign or misshapen, or configuration and
                tensors are of different models.
        """
        files = find_files(folder)
        if files is None:
            raise CheckpointError(
                f"{folder}: not a TiTok: one file of weights with latent_tokens and a config"
            )
        return read_model(files)

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes ``config.json`` and ``model.safetensors`` under the owner's names.

        Raises:
            UsageError: A part that the layout can't hold, named; or `folder` holds something else.
        """
        text = json.dumps({**_settings(model).dump(), EXPORTED_BY: vtp_core.__version__}, indent=2) + "\n"

        def fill(new: Path) -> None:
            write_weights(new / WEIGHTS, published_tensors(model))
            (new / "config.json").write_text(text, encoding="utf-8")

        replace_folder(folder, fill, is_export, (WEIGHTS, "config.json"))


def _settings(model: Tokenizer) -> Settings:
    """The owner's configuration of a tokenizer that fits."""
    encoder, bottleneck, decoder = model.encoder, model.bottleneck, model.decoder
    if not isinstance(encoder, TiTokEncoder) or not isinstance(decoder, TiTokDecoder):
        raise _misfit("encoder and decoder are not both `titok`")
    one, other = encoder.config, decoder.config
    if (one.size, one.tokens) != (other.size, other.tokens):
        raise _misfit("encoder and decoder differ in size or tokens")
    if one.legacy != (other.pixels is not None):
        raise _misfit("it has `legacy` without `pixels`, or `pixels` without `legacy`")
    latent: dict[str, object] = {"token_size": bottleneck.channels}
    if isinstance(bottleneck, KlBottleneck) and not one.legacy:
        latent["quantize_mode"] = "vae"
    elif (
        isinstance(bottleneck, VqBottleneck)
        and isinstance(quantizer := bottleneck.config.quantizer, LearnedConfig)
        and bottleneck.project is not None
    ):
        latent |= {
            "codebook_size": quantizer.codes,
            "use_l2_norm": quantizer.metric == "cosine",
            "commitment_cost": quantizer.commitment,
        }
    else:
        raise _misfit("its bottleneck is neither `vq` with a projection and a codebook_loss, nor `kl`")
    return Settings(
        vq_model=VqModel(
            **latent,
            **_size("enc", one),
            **_size("dec", other),
            num_latent_tokens=one.tokens,
            finetune_decoder=one.legacy,
            is_legacy=one.legacy,
        ),
        crop_size=one.size,
    )


def _size(part: str, table: TiTokConfig) -> dict[str, object]:
    name = size_name(table.width, table.depth, table.heads)
    heads = {} if name else {f"vit_{part}_num_heads": table.heads}
    return {f"vit_{part}_model_size": name or "other", f"vit_{part}_patch_size": table.patch, **heads}


def _misfit(why: str) -> UsageError:
    return UsageError(f"format titok: {why}; export our own format instead")
