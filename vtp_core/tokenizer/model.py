"""A trained tokenizer: encoder, bottleneck, decoder, and the conversion between images and pixels.

    from vtp_core import load

    tokenizer = load("runs/quickstart/tokenizer")
    pixels = tokenizer.preprocess([image])              # PIL images -> (B, 3, H, W), ImageNet-normalised
    latent = tokenizer.encode(pixels).latent            # (B, d, h, w)
    images = tokenizer.postprocess(tokenizer.decode(latent).sample)

Shapes: B images, d latent channels, h = H / patch, w = W / patch, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.bottleneck import Bottleneck
from vtp_core.decoder import Decoder
from vtp_core.encoded import DETERMINISTIC_LOGVAR, Decoded, Encoded, LatentDistribution, require_finite
from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent
from vtp_core.pixels import convert

if TYPE_CHECKING:
    from PIL.Image import Image

    from vtp_core.artefact.compact import Storage


class Tokenizer(nn.Module):
    """An encoder, a bottleneck and a decoder, and the modules that objectives export.

    Use it in eval mode, as `load` returns it: in training mode a variational bottleneck samples.

    Attributes:
        config: What `save` writes as ``config.json``; None if it was built without.
        exports: Capability such as ``"embed_text"`` -> module. If two objectives export the same one, the
            second is ``"<objective>/embed_text"``.
    """

    def __init__(
        self,
        encoder: Encoder,
        bottleneck: Bottleneck,
        decoder: Decoder | None,
        exports: Mapping[str, nn.Module] | None = None,
        *,
        config: ArtefactConfig | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.exports = nn.ModuleDict(dict(exports or {}))
        self.config = config

    @property
    def capabilities(self) -> frozenset[str]:
        """Supported operations: encode, decode, codes, and the exported capabilities."""
        own = {"encode"} | ({"decode"} if self.decoder is not None else set())
        codes = {"codes"} if self.bottleneck.codebook_sizes else set()
        return frozenset(own | codes | set(self.exports))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def features(self, pixels: Tensor, layers: Sequence[int] = ()) -> Features:
        """Encoder tokens before the bottleneck.

        Args:
            pixels: (B, 3, H, W) floating point, ImageNet-normalised; H and W are multiples of the patch.
            layers: Encoder blocks to tap.

        Raises:
            UsageError: The pixels have another shape, type or range.
        """
        self._check_pixels(pixels)
        (tokens,) = self.encoder([pixels.unsqueeze(1)], [None], layers=tuple(layers), drop_path=0.0)
        return Features(crops={"global": tokens})

    def encode(self, pixels: Tensor) -> Encoded:
        """Latents of images; `pixels` as for `features`."""
        return self.encode_features(self.features(pixels, self.bottleneck.layers))

    def encode_features(self, features: Features) -> Encoded:
        """Latents of features that tap at least ``bottleneck.layers``."""
        latent: Latent = self.bottleneck(features)
        mean, logvar = latent.z, None
        if latent.logvar is not None:
            logvar = latent.logvar["global"][:, 0].transpose(1, 2).reshape(mean.shape)
        distribution = LatentDistribution(
            mean=mean,
            logvar=torch.full_like(mean, DETERMINISTIC_LOGVAR) if logvar is None else logvar,
            deterministic=logvar is None,
        )
        indices = None if latent.codes is None else latent.codes["global"][:, 0]
        return Encoded(latent=mean, latent_dist=distribution, indices=indices)

    def decode(self, latent: Tensor) -> Decoded:
        """Images of latents.

        Args:
            latent: (B, d, h, w) floating point.

        Raises:
            UsageError: Another shape or type, or a tokenizer without a decoder.
            NumericError: The latent or the image is not finite.
        """
        if self.decoder is None:
            raise UsageError("decode: this tokenizer has no decoder; train it with a [decoder]")
        channels = self.bottleneck.channels
        if latent.dim() != 4 or latent.shape[1] != channels or not latent.is_floating_point():
            raise UsageError(
                f"decode: expected a float latent (B, {channels}, h, w), got {latent.dtype} "
                f"{tuple(latent.shape)}; use decode_indices for codes"
            )
        sample = convert(self.decoder(latent), self.decoder.value_range, "imagenet")
        require_finite("decode", {"the latent is": latent, "the decoder's output is": sample}, self.decoder)
        return Decoded(sample=sample)

    def decode_indices(self, indices: Tensor) -> Decoded:
        """Images of codes (B, Q, h, w) int64, as in ``encode(pixels).indices``."""
        if not self.bottleneck.codebook_sizes:
            raise UsageError("decode_indices: the latent of this tokenizer is continuous; use decode(latent)")
        return self.decode(self.bottleneck.decode_codes(indices))

    def encode_normalized(self, pixels: Tensor) -> Tensor:
        """Latents (B, d, h, w) with zero mean and unit variance per channel, times `scaling_factor`."""
        mean, factor = self._statistics("encode_normalized")
        latent = self.encode(pixels).latent
        return (latent - mean.to(latent)) * factor.to(latent)

    def decode_normalized(self, latent: Tensor) -> Decoded:
        """Images of what `encode_normalized` returns."""
        mean, factor = self._statistics("decode_normalized")
        return self.decode(latent / factor.to(latent) + mean.to(latent))

    def embed_image(self, pixels: Tensor) -> Tensor:
        """L2-normalised image embeddings (B, E); needs an objective that exports ``embed_image``."""
        head = self._export("embed_image")
        return self.embed_features(self.features(pixels, getattr(head, "layers", ())))

    def embed_features(self, features: Features) -> Tensor:
        """L2-normalised image embeddings (B, E) of features."""
        head = self._export("embed_image")
        if getattr(head, "reads", "features") == "latent":
            features = self.bottleneck(features)
        embedding: Tensor = head(features)
        require_finite("embed_image", {"the image embedding is": embedding}, head)
        return embedding

    def embed_text(self, texts: Sequence[str] | str) -> Tensor:
        """L2-normalised text embeddings (B, E); needs an objective that exports ``embed_text``."""
        head = self._export("embed_text")
        embedding: Tensor = head([texts] if isinstance(texts, str) else list(texts))
        require_finite("embed_text", {"the text embedding is": embedding}, head)
        return embedding

    def generate(self, indices: Tensor, seed: int = 0) -> Tensor:
        """Latents (B, d, h, w) of generated samples, as `decode` takes them.

        Needs an objective that exports ``generate``: a module with the method
        ``generate(indices, seed, shape)``, where `shape` is (d, h, w).

        Args:
            indices: (B,) int64, on the tokenizer's device; sample i depends on (seed, i) alone.
            seed: Seed of all samples.
        """
        head: Any = self._export("generate")
        if self.config is None:
            raise UsageError(
                "generate: a tokenizer without a config has no image size; build it with config="
            )
        side = self.config.image_size // self.encoder.patch
        latent: Tensor = head.generate(indices, seed, (self.bottleneck.channels, side, side))
        return latent

    def preprocess(self, images: Sequence[Image] | Image) -> Tensor:
        """PIL images to pixels, by the conversion to RGB, the resize and the centre crop of evaluation.

        Returns:
            (B, 3, S, S) float32, ImageNet-normalised, on the tokenizer's device; S is ``config.image_size``.

        Raises:
            UsageError: No images, or one that `vtp_core.data.decoding.convert_image` refuses.
        """
        from vtp_core.images import pixels_of

        if self.config is None:
            raise UsageError(
                "preprocess: a tokenizer without a config has no image size; build it with config="
            )
        sequence = list(images) if isinstance(images, Sequence) else [images]
        return pixels_of(sequence, self.config.image_size).to(self.device)

    def postprocess(self, pixels: Tensor) -> list[Image]:
        """ImageNet-normalised pixels (B, 3, H, W) to 8-bit PIL images, clamped and rounded.

        Raises:
            NumericError: A pixel is not finite.
        """
        from vtp_core.images import images_of

        return images_of(pixels)

    def save(self, folder: str | Path, *, storage: Storage = "full") -> Path:
        """Writes the artefact folder; an existing artefact is replaced.

        Args:
            folder: Destination.
            storage: ``"full"`` stores the weights unchanged; ``"bfloat16"`` and ``"int8"`` round them to half
                and about a quarter of float32's size.

        Raises:
            UsageError: No `config`, or `folder` holds something else.
        """
        from vtp_core.artefact.folder import write_artefact

        return write_artefact(self, Path(folder), storage)

    def _export(self, capability: str) -> nn.Module:
        if capability not in self.exports:
            known = ", ".join(sorted(self.capabilities))
            raise UsageError(
                f"{capability}: this tokenizer has {known}; train with an objective that exports it"
            )
        return self.exports[capability]

    def _statistics(self, caller: str) -> tuple[Tensor, Tensor]:
        config = self.config
        if config is None or config.latents_mean is None or config.latents_std is None:
            raise UsageError(f"{caller}: the artefact holds no latent statistics; write it with `vtp export`")
        mean = torch.tensor(config.latents_mean, dtype=torch.float64).view(1, -1, 1, 1)
        std = torch.tensor(config.latents_std, dtype=torch.float64).view(1, -1, 1, 1)
        return mean, config.scaling_factor / std

    def _check_pixels(self, pixels: Tensor) -> None:
        patch = self.encoder.patch
        if not pixels.is_floating_point():
            raise UsageError(
                f"encode: got {pixels.dtype} pixels; expected float, ImageNet-normalised: use preprocess()"
            )
        if pixels.dim() != 4 or pixels.shape[1] != 3:
            raise UsageError(f"encode: expected pixels (B, 3, H, W), got {tuple(pixels.shape)}")
        height, width = pixels.shape[-2:]
        if height % patch or width % patch or not height or not width:
            raise UsageError(f"encode: height and width must be multiples of {patch}, got {height} x {width}")
        if not torch.compiler.is_compiling() and pixels.numel() and pixels.detach().abs().amax() > 10:
            raise UsageError(
                "encode: pixels beyond +-10 are not ImageNet-normalised (0 to 255 perhaps): use preprocess()"
            )
