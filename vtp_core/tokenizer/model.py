"""A trained tokenizer: encoder, bottleneck, decoder, and the conversion between images and pixels.

    from vtp_core import load

    tokenizer = load("runs/quickstart/tokenizer")
    pixels = tokenizer.preprocess(["photo.png"])        # images -> (B, 3, H, W), ImageNet-normalised
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
from vtp_core.tokenizer.checks import (
    checked_codes,
    checked_features,
    checked_latent,
    checked_layers,
    checked_pixels,
    checked_size,
    checked_texts,
    place_of,
)
from vtp_core.tokenizer.generated import generated
from vtp_core.tokenizer.statistics import statistics_of
from vtp_core.tokenizer.summary import summary
from vtp_core.tokenizer.tiling import set_strips

if TYPE_CHECKING:
    from PIL.Image import Image

    from vtp_core.artefact.compact import Storage
    from vtp_core.tokenizer.images import Images


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

    @staticmethod
    def from_hub(repository: str, revision: str | None = None, subfolder: str = "") -> Tokenizer:
        """The tokenizer of a Hugging Face repository, see `vtp_core.artefact.hub.load_from_hub`."""
        from vtp_core.artefact.hub import load_from_hub

        return load_from_hub(repository, revision, subfolder)

    @property
    def capabilities(self) -> frozenset[str]:
        """Supported operations: encode, decode, codes, branches, class_tokens, and the exported ones."""
        codes, branches = bool(self.bottleneck.codebook_sizes), len(self.bottleneck.branch_channels) > 1
        tokens = self.encoder.has_cls and self.encoder.has_intermediate
        own = ("decode", "codes", "branches", "class_tokens")
        has = (self.decoder is not None, codes, branches, tokens)
        return frozenset({"encode", *self.exports, *(n for n, yes in zip(own, has, strict=True) if yes)})

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return place_of(self)[0]

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the weights, of the pixels of `preprocess` and of latents."""
        return place_of(self)[1]

    @property
    def latent_channels(self) -> int:
        """Channels d of the latent."""
        return self.bottleneck.channels

    def __repr__(self) -> str:
        """What it is in at most ten lines; ``tokenizer.encoder`` and the others show their modules."""
        return summary(self)

    def features(self, pixels: Tensor | Images, layers: Sequence[int] = ()) -> Features:
        """Encoder tokens before the bottleneck.

        Args:
            pixels: (B, 3, H, W) floating point, ImageNet-normalised; H and W are multiples of the patch. Or
                what `preprocess` takes, but tensors.
            layers: Encoder blocks to tap.

        Raises:
            UsageError: The pixels have another shape, type, range or device, or there is no such block.
        """
        return self._features("features", pixels, layers)

    def encode(self, pixels: Tensor | Images) -> Encoded:
        """Latents of images; `pixels` as for `features`. Nothing in it waits for a GPU."""
        return self.encode_features(self._features("encode", pixels, self.bottleneck.layers))

    def encode_features(self, features: Features) -> Encoded:
        """Latents of features that tap at least ``bottleneck.layers``."""
        latent: Latent = self.bottleneck(checked_features("encode_features", features))
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
        latent = checked_latent("decode", latent, self.latent_channels, self.decoder, self)
        sample = convert(self.decoder(latent), self.decoder.value_range, "imagenet")
        require_finite("decode", {"the latent is": latent, "the decoder's output is": sample}, self.decoder)
        return Decoded(sample=sample)

    def decode_indices(self, indices: Tensor) -> Decoded:
        """Images of codes (B, Q, h, w) int64, as in ``encode(pixels).indices``."""
        if not self.bottleneck.codebook_sizes:
            raise UsageError("decode_indices: the latent of this tokenizer is continuous; use decode(latent)")
        codes = checked_codes("decode_indices", indices, self.bottleneck.codebook_sizes, self)
        return self.decode(self.bottleneck.decode_codes(codes))

    def encode_normalized(self, pixels: Tensor | Images) -> Tensor:
        """Latents (B, d, h, w) with zero mean and unit variance per channel, times `scaling_factor`."""
        mean, factor = statistics_of("encode_normalized", self.config)
        latent = self.encode(pixels).latent
        return (latent - mean.to(latent, non_blocking=True)) * factor.to(latent, non_blocking=True)

    def decode_normalized(self, latent: Tensor) -> Decoded:
        """Images of what `encode_normalized` returns."""
        mean, factor = statistics_of("decode_normalized", self.config)
        latent = checked_latent("decode_normalized", latent, self.latent_channels, self)
        return self.decode(latent / factor.to(latent) + mean.to(latent))

    def embed_image(self, pixels: Tensor | Images) -> Tensor:
        """L2-normalised image embeddings (B, E); needs an objective that exports ``embed_image``.

        Args:
            pixels: As for `features`.
        """
        head = self._export("embed_image")
        return self.embed_features(self._features("embed_image", pixels, getattr(head, "layers", ())))

    def embed_features(self, features: Features) -> Tensor:
        """L2-normalised image embeddings (B, E) of features."""
        head = self._export("embed_image")
        checked_features("embed_features", features)
        if getattr(head, "reads", "features") == "latent":
            features = self.bottleneck(features)
        embedding: Tensor = head(features)
        require_finite("embed_image", {"the image embedding is": embedding}, head)
        return embedding

    def embed_text(self, texts: Sequence[str] | str) -> Tensor:
        """L2-normalised text embeddings (B, E); needs an objective that exports ``embed_text``."""
        head = self._export("embed_text")
        embedding: Tensor = head(checked_texts("embed_text", texts))
        require_finite("embed_text", {"the text embedding is": embedding}, head)
        return embedding

    def generate(
        self,
        indices: Tensor,
        seed: int = 0,
        *,
        classes: Tensor | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Latents (B, d, h, w) of generated samples, as `decode` takes them.

        Needs an objective that exports ``generate``, a `vtp_core.generator.Generator`.

        Args:
            indices: (B,) int64, on the tokenizer's device; sample i depends on (seed, i) alone.
            seed: Seed of all samples.
            classes: (B,) int64, a class for each sample; None: drawn by (seed, i).
            settings: Changes of the generator's settings by key, such as ``{"steps": 20}``.
        """
        return generated(self, self._export("generate"), indices, seed, classes, settings)

    def preprocess(self, images: Images, size: int | tuple[int, int] | None = None) -> Tensor:
        """Images to pixels, by the conversion to RGB, the resize and the centre crop of evaluation.

        Args:
            images: A path, a PIL image or an array, a batch in one array, or several of these. An array has
                one of the shapes (H, W), (H, W, C) and (C, H, W) with 1, 3 or 4 channels, a batch one more
                axis in front; uint8, uint16, or floating point in [0, 1], which is rounded to 8 bit.
            size: Side of the pixels, or rows and columns; None: ``config.image_size``, as in training.

        Returns:
            (B, 3, rows, columns), ImageNet-normalised, in the tokenizer's dtype and on its device.

        Raises:
            UsageError: Something that is no image, or one that `vtp_core.data.decoding` refuses.
        """
        from vtp_core.tokenizer.images import pixels_of

        if size is None and self.config is None:
            raise UsageError("preprocess: a tokenizer without a config has no image size; give size=")
        chosen = size if size is not None or self.config is None else self.config.image_size
        pixels = pixels_of(images, checked_size("preprocess", chosen, self.encoder.patch))
        return pixels.to(device=self.device, dtype=self.dtype)

    def postprocess(self, pixels: Tensor) -> list[Image]:
        """ImageNet-normalised pixels (B, 3, H, W) to 8-bit PIL images, clamped and rounded.

        Raises:
            NumericError: A pixel is not finite.
            UsageError: Another shape, or no floating-point tensor.
        """
        from vtp_core.tokenizer.images import images_of

        return images_of(pixels)

    def reconstruct(self, images: Tensor | Images) -> list[Image]:
        """Each image beside its reconstruction, an 8-bit PIL image of both; `images` as for `encode`."""
        from vtp_core.tokenizer.images import side_by_side

        return side_by_side(self, images)

    def enable_tiling(self, rows: int | None = 128) -> None:
        """Runs a `cnn` on strips of `rows` rows, with the same results; None: whole maps again."""
        set_strips(self, rows)

    def save(self, folder: str | Path, *, storage: Storage = "full") -> Path:
        """Writes the artefact folder; of an existing artefact other files and an edited card stay.

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

    def _features(self, caller: str, pixels: Tensor | Images, layers: Sequence[int]) -> Features:
        if not isinstance(pixels, Tensor):
            pixels = self.preprocess(pixels)
        pixels = checked_pixels(caller, pixels, self.encoder.patch, self.encoder, self)
        taps = checked_layers(caller, layers, self.encoder.tappable)
        (tokens,) = self.encoder([pixels.unsqueeze(1)], [None], layers=taps, drop_path=0.0)
        return Features(crops={"global": tokens})
