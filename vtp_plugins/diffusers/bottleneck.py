"""The `diffusers` bottleneck."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from vtp_core.bottleneck import Bottleneck
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Tokens
from vtp_core.math.row_noise import row_randn
from vtp_core.parameters import Dims
from vtp_plugins.diffusers.config import DiffusersBottleneckConfig
from vtp_plugins.diffusers.network import build, half_of
from vtp_plugins.kl.bottleneck import LOGVAR_RANGE
from vtp_plugins.kl.loss import kl_to_standard_normal


class DiffusersBottleneck(Bottleneck):
    """The latent of an autoencoder of diffusers.

    Gaussian: training takes a sample, evaluation the mean. Of one codebook: diffusers' quantiser, whose
    result it is. Deterministic: the encoder's tokens.

    Raises:
        UsageError: The encoder's tokens have another width.
    """

    quantize: Any

    def __init__(self, config: DiffusersBottleneckConfig, dims: Dims) -> None:
        super().__init__()
        self.config, self.layout = config, config.layout
        if dims.width != self.layout.width:
            raise UsageError(
                f"diffusers: the latent of {self.layout.name} is made of {self.layout.width} channels, the "
                f"encoder has {dims.width}; give encoder and bottleneck one `model`"
            )
        self.channels = self.layout.channels
        if self.layout.codes:
            self.codebook_sizes = (self.layout.codes,)
            self.quantize = half_of(build(config), "quantize")

    def forward(self, features: Features) -> Latent:
        """Latent tokens of every crop set."""
        if self.layout.latent == "gaussian":
            return self._gaussian(features)
        if self.layout.latent == "codes":
            return self._quantized(features)
        return Latent(crops={n: Tokens(patches=t.patches, grid=t.grid) for n, t in features.crops.items()})

    def decode_codes(self, codes: Tensor) -> Tensor:
        """The latent map (B, d, h, w) of codes (B, 1, h, w)."""
        if not self.layout.codes:
            return super().decode_codes(codes)
        rows, _, height, width = codes.shape
        return self.quantize.get_codebook_entry(codes.flatten(), (rows, height, width, self.channels))

    def _gaussian(self, features: Features) -> Latent:
        crops, logvars, divergences = {}, {}, []
        for draw, (name, tokens) in enumerate(features.crops.items()):
            mean, logvar = (part.clone() for part in tokens.patches.chunk(2, -1))
            logvar = logvar.clamp(*LOGVAR_RANGE)
            patches = mean
            if self.training:
                noise = torch.randn_like(mean)
                if features.seeds is not None:
                    noise = row_randn(features.seeds, *mean.shape[1:], draw=draw, dtype=mean.dtype)
                patches = mean + (0.5 * logvar).exp() * noise
            crops[name] = Tokens(patches=patches, grid=tokens.grid)
            logvars[name] = logvar
            divergences.append(kl_to_standard_normal(mean, logvar).sum((-1, -2)).flatten())
        kl = torch.cat(divergences).mean()
        aux, report = {"kl": self.config.weight * kl}, {"kl_nats": kl.detach()}
        return Latent(crops=crops, aux=aux, report=report, logvar=logvars)

    def _quantized(self, features: Features) -> Latent:
        crops, codes, losses = {}, {}, []
        for name, tokens in features.crops.items():
            shape, (height, width) = tokens.patches.shape, tokens.grid
            tall = tokens.patches.flatten(0, 1).transpose(1, 2).unflatten(2, (height, width))
            found, loss, (_, _, indices) = self._nearest(tall)
            patches = found.to(tall.dtype).flatten(2).transpose(1, 2).unflatten(0, shape[:2])
            crops[name] = Tokens(patches=patches, grid=tokens.grid)
            codes[name] = indices.view(*shape[:2], 1, height, width)
            losses.append(loss)
        return Latent(
            crops=crops, codes=codes, aux={"codebook": self.config.commitment * torch.stack(losses).mean()}
        )

    def _nearest(self, x: Tensor) -> Any:
        """What the quantiser gives; of half precision in float32, as torch has no such distances on CPUs."""
        if x.dtype not in (torch.bfloat16, torch.float16):
            return self.quantize(x)
        weights = {name: value.float() for name, value in self.quantize.named_parameters()}
        return functional_call(self.quantize, weights, (x.float(),))
