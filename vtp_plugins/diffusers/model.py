"""A tokenizer of ours as a model of diffusers, for the autoencoder's slot of its pipelines.

Shapes: B images, d latent channels, h x w positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.pixels import SIGNED, convert
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import check_weights, checked_latent
from vtp_core.view import sides
from vtp_plugins.diffusers.tiling import tiled


class AutoencoderVTP(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Encoder, bottleneck and decoder of a tokenizer with the interface of diffusers' ``AutoencoderKL``.

    Images are (B, 3, H, W) in [-1, 1], H and W multiples of the patch. As in diffusers, `encode` and `decode`
    leave latents as they are, and pipelines apply ``config.latents_mean``, ``config.latents_std`` and
    ``config.scaling_factor``: z = (latent - mean) / std * factor. Pipelines that know the factor alone, such
    as `DiTPipeline`, need `normalize_latents`.

    Args:
        artefact: The ``config.json`` of our artefact; heads are left out.
        normalize_latents: `encode` gives and `decode` takes latents with the artefact's statistics applied,
            as diffusers' ``AutoencoderRAE`` does; mean, deviation and factor of the config are then 0, 1, 1.
        scaling_factor: Follows from `artefact`, as do the next ones.
        shift_factor: 0, for pipelines that add it.
        latents_mean: Per channel; None with `normalize_latents`.
        latents_std: As `latents_mean`.
        latent_channels: Channels d.
        latent_size: Side of their latents, or rows and columns.
        sample_size: Side of the images it was trained with.
        block_out_channels: Pipelines read the patch from its length, 1 + log2(patch).
        force_upcast: Whether pipelines run it in float32; no.
    """

    # So that a saved pipeline names the package, which everyone imports, and not this file.
    __module__ = "vtp_plugins.diffusers"
    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        artefact: Mapping[str, Any],
        normalize_latents: bool = False,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        latent_channels: int | None = None,
        latent_size: int | list[int] | None = None,
        sample_size: int | list[int] | None = None,
        block_out_channels: list[int] | None = None,
        force_upcast: bool = False,
    ) -> None:
        super().__init__()
        # Without a fingerprint: the weights may be trained further, and `name_of` hashes them.
        self.artefact = ArtefactConfig.model_validate({**artefact, "heads": {}, "fingerprint": None})
        built = assemble(self.artefact, load_plugins())
        if built.decoder is None:
            raise UsageError("AutoencoderVTP: the tokenizer has no decoder; train it with a [decoder]")
        self.encoder, self.bottleneck, self.decoder = built.encoder, built.bottleneck, built.decoder
        self.use_slicing = self.use_tiling = False
        side = min(sides(self.artefact.image_size))
        self.tile_sample_min_size, self.tile_overlap_factor = side, 0.25
        if normalize_latents and self.artefact.latents_mean is None:
            raise UsageError(
                "AutoencoderVTP: normalize_latents needs statistics of the latents, and the artefact has "
                "none; write it with `vtp export`"
            )
        # Kept in double, and applied in the dtype of the latents.
        own = self.artefact
        mean, std = own.latents_mean or (0.0,), own.latents_std or (1.0,)
        self._mean = torch.tensor(mean, dtype=torch.float64, device="cpu").view(1, -1, 1, 1)
        self._factor = own.scaling_factor / torch.tensor(std, dtype=torch.float64, device="cpu").view(
            1, -1, 1, 1
        )
        self.register_to_config(**_described(built, normalize_latents))

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer, *, normalize_latents: bool = False) -> Self:
        """The model of a loaded tokenizer; it shares no memory with it.

        Args:
            tokenizer: As `vtp_core.load` returns it.
            normalize_latents: See the class.

        Raises:
            UsageError: It has no config or no decoder, or no statistics that `normalize_latents` needs.
        """
        if tokenizer.config is None:
            raise UsageError("AutoencoderVTP: a tokenizer without a config has no component tables")
        config = tokenizer.config
        own = {name: getattr(config, name) for name in ArtefactConfig.model_fields}
        plain = ArtefactConfig(**{**own, "heads": {}, "storage": "full", "fingerprint": None})
        model = cls(artefact=plain.model_dump(mode="json"), normalize_latents=normalize_latents)
        for name in ("encoder", "bottleneck", "decoder"):
            getattr(model, name).load_state_dict(getattr(tokenizer, name).state_dict())
        # diffusers' own `to` warns of parts to keep in float32, of which there are none.
        return nn.Module.to(model, device=tokenizer.device, dtype=tokenizer.dtype).eval()

    @classmethod
    def from_pretrained(cls, path: Any, **options: Any) -> Any:
        """Reads a folder; `options` are those of diffusers' method.

        Raises:
            CheckpointError: A weight is missing, foreign, misshapen or not finite; diffusers lets that pass.
        """
        wanted = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(path, output_loading_info=True, **options)
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := sorted(map(str, info[what])):
                raise CheckpointError(
                    f"{path}: {what.replace('_', ' ')}: {', '.join(names[:3])}; config.json and weights are "
                    "of different models"
                )
        check_weights(path, model)
        return (model, info) if wanted else model

    @property
    def tokenizer(self) -> Tokenizer:
        """The same networks as a `vtp_core.Tokenizer`, without heads."""
        found = Tokenizer(self.encoder, self.bottleneck, self.decoder, config=self.artefact)
        found.training = self.training
        return found

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[Any]:
        """The distribution of the latents (B, d, h, w) of images in [-1, 1]; its deviation may be zero."""
        rows = x.split(1) if self.use_slicing and len(x) > 1 else (x,)
        certain: set[bool] = set()
        parameters = torch.cat([self._posterior(row, certain) for row in rows])
        posterior = DiagonalGaussianDistribution(parameters, deterministic=certain == {True})
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Images (B, 3, H, W) in [-1, 1], unclamped, of latents (B, d, h, w); `generator` has no effect."""
        z = checked_latent("decode", z, self.bottleneck.channels, self.decoder, self)
        if self.config.normalize_latents:
            z = z / self._factor.to(z) + self._mean.to(z)
        rows = z.split(1) if self.use_slicing and len(z) > 1 else (z,)
        sample = torch.cat([self._pixels(row) for row in rows])
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def enable_tiling(self) -> None:
        """Encodes and decodes large images part by part.

        Convolutional networks run on strips of rows, with the result of the whole image. Others run on tiles
        of the size of the training images that overlap and are blended: each is an image of its own, so that
        latents are not those of the whole.
        """
        if self.encoder.has_strips and self.decoder.has_strips:
            self.tokenizer.enable_tiling()
        else:
            super().enable_tiling()

    def disable_tiling(self) -> None:
        """Encodes and decodes whole images again."""
        self.tokenizer.enable_tiling(None)
        super().disable_tiling()

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Reconstructions of images; of the mode, or of a sample with `sample_posterior`."""
        posterior = self.encode(sample, return_dict=False)[0]
        return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode(), return_dict)

    def _posterior(self, x: Tensor, certain: set[bool]) -> Tensor:
        """Mean and log variance, (B, 2 d, h, w); adds to `certain` whether there is no deviation."""
        call = partial(self._moments, certain=certain)
        patch, tile = self.encoder.patch, self.tile_sample_min_size
        if self.use_tiling and max(x.shape[-2:]) > tile:
            return tiled(call, x, tile // patch, self.tile_overlap_factor, inputs=patch, outputs=1)
        return call(x)

    def _moments(self, x: Tensor, certain: set[bool]) -> Tensor:
        found = self.tokenizer.encode(convert(x, SIGNED, "imagenet")).latent_dist
        mean, logvar = found.mean, found.logvar
        certain.add(found.deterministic)
        if self.config.normalize_latents:
            factor = self._factor.to(mean)
            mean = (mean - self._mean.to(mean)) * factor
            logvar = logvar if found.deterministic else logvar + 2 * factor.log()
        return torch.cat([mean, logvar], 1)

    def _pixels(self, z: Tensor) -> Tensor:
        patch, tile = self.encoder.patch, self.tile_sample_min_size
        if self.use_tiling and max(z.shape[-2:]) * patch > tile:
            return tiled(self._image, z, tile // patch, self.tile_overlap_factor, inputs=1, outputs=patch)
        return self._image(z)

    def _image(self, z: Tensor) -> Tensor:
        return convert(self.decoder(z), self.decoder.value_range, SIGNED)


def _described(tokenizer: Tokenizer, normalize_latents: bool) -> dict[str, Any]:
    """What the config says beside the artefact."""
    config, patch, channels = tokenizer.config, tokenizer.encoder.patch, tokenizer.bottleneck.channels
    assert config is not None
    levels = math.log2(patch)
    measured = config.latents_mean is not None and not normalize_latents
    height, width = sides(config.image_size)
    rows, columns = tokenizer.encoder.grid(height, width)
    return {
        "scaling_factor": 1.0 if normalize_latents else config.scaling_factor,
        "shift_factor": 0.0,
        "latents_mean": list(config.latents_mean or ()) if measured else None,
        "latents_std": list(config.latents_std or ()) if measured else None,
        "latent_channels": channels,
        "latent_size": rows if rows == columns else [rows, columns],
        "sample_size": height if height == width else [height, width],
        "block_out_channels": [channels] * (1 + int(levels)) if levels == int(levels) else None,
    }
