"""Figures of latents: variance of the velocity, slope of the spectrum, uniformity, scale equivariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.math.row_noise import row_rand
from vtp_plugins.evaluate_diffusability.posterior import group_size, posterior_of_others

KERNEL = 2.0
"""Factor on the squared distance in the uniformity's Gaussian kernel (Wang and Isola 2020, section 4.1.2)."""
NUMBERS = 2**24
"""Most numbers of latents that are kept."""


def most_images(samples: int, numbers: int) -> int:
    """How many images of `numbers` numbers are kept of at most `samples`; never fewer than two."""
    return max(2, min(samples, NUMBERS // max(numbers, 1)))


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Mean and deviation of each channel, (d,) float64; constant channels have deviation 1."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> Channels:
        """Those of latents (I, d, h, w)."""
        rows = latents.double().movedim(1, -1).flatten(0, -2)
        std = rows.std(0, correction=0)
        return cls(mean=rows.mean(0), std=torch.where(std > 1e-8, std, torch.ones_like(std)))

    def standardised(self, latents: Tensor) -> Tensor:
        """Latents (I, d, h, w) float64 of zero mean and unit deviation by channel."""
        return (latents.double() - self.mean[:, None, None]) / self.std[:, None, None]


@dataclass(frozen=True, kw_only=True)
class Velocity:
    """The velocity at one time, per number of a point.

    Attributes:
        variance: (I,) of each image: variance of the velocity given x_t over the other images' points.
        error: (I,) mean squared error of predicting each image's own velocity by that posterior's mean: an
            upper bound of the irreducible variance in expectation, as the other is biased downward.
        neighbours: Effective number of neighbours: exp of the mean entropy.
    """

    variance: Tensor
    error: Tensor
    neighbours: float


def velocity(points: Tensor, noise: Tensor, time: float) -> Velocity:
    """The velocity's leave-one-out figures at a time.

    Args:
        points: (I, n, d) float64.
        noise: (I, n, d) float64, standard normal.
        time: In (0, 1); 0 is noise.
    """
    images = len(points) // group_size(len(points)) * group_size(len(points))
    points, noise = points[:images], noise[:images]
    rest = 1 - time
    found = posterior_of_others(points, time * points + rest * noise, time, rest)
    scale = points.shape[-1] * rest**2
    return Velocity(
        variance=(found.variance / scale).mean(1),
        error=((points - found.mean).square().sum(-1) / scale).mean(1),
        neighbours=float(found.entropy.mean().exp()),
    )


def white_variance(time: float) -> float:
    """The variance of the velocity of unlimited white Gaussian points, per number: 1 / (t^2 + (1 - t)^2).

    z - e and t z + (1 - t) e are jointly normal, with variances 2 and t^2 + (1 - t)^2 and covariance 2 t - 1.
    """
    return 1 / (time**2 + (1 - time) ** 2)


def chosen_tokens(latents: Tensor, count: int, seeds: Tensor) -> Tensor:
    """(I, n, d): at most `count` random positions of each of latents (I, d, h, w), by the images' seeds."""
    tokens = latents.flatten(2).transpose(1, 2)
    order = row_rand(seeds, tokens.shape[1], draw=1000).argsort(1)[:, :count]
    return tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2]))


def permuted_tokens(latents: Tensor, seeds: Tensor) -> Tensor:
    """Latents (I, d, h, w) with the tokens of each position shuffled across images."""
    tokens = latents.flatten(2).transpose(1, 2)
    order = row_rand(seeds, tokens.shape[1], draw=1001).argsort(0)
    dealt = tokens.gather(0, order[..., None].expand_as(tokens))
    return dealt.transpose(1, 2).reshape(latents.shape)


def closeness(tokens: Tensor) -> Tensor:
    """(I,) mean of exp(-2 |u - v|^2) over the other images' tokens v, of unit vectors (I, n, d) float64.

    The uniformity is the log of its mean. Source: Wang and Isola 2020, equation 4.
    """
    images = len(tokens) // group_size(len(tokens)) * group_size(len(tokens))
    unit = F.normalize(tokens[:images], dim=-1)
    found = posterior_of_others(unit, unit, 1.0, (1 / (2 * KERNEL)) ** 0.5)
    return (found.log_sum.exp() / ((images - 1) * unit.shape[1])).mean(1)


def power_spectrum(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Power of each frequency but zero, summed over channels.

    Args:
        latents: (I, d, h, w) float64.

    Returns:
        Log of the frequencies' radius in cycles a position (f,), and power of each image (I, f).
    """
    height, width = latents.shape[2:]
    rows, columns = torch.fft.fftfreq(height).double(), torch.fft.fftfreq(width).double()
    radius = (rows[:, None].square() + columns.square()).sqrt().flatten()
    power = torch.fft.fft2(latents).abs().square().sum(1).flatten(1)
    return radius[1:].log(), power[:, 1:]


def slope(log_radius: Tensor, power: Tensor) -> Tensor:
    """Least-squares slope of log power (..., f) over log radius (f,); that of photographs is near -2."""
    x = log_radius - log_radius.mean()
    y = power.clamp_min(1e-300).log()
    return ((y - y.mean(-1, keepdim=True)) * x).sum(-1) / x.square().sum()


def scale_error(half: Tensor, whole: Tensor, channels: Channels) -> tuple[Tensor, Tensor]:
    """How far the latent of a halved image is from the halved latent, and from each channel's mean.

    Args:
        half: (I, d, h / 2, w / 2), latents of images whose 2 x 2 pixels were averaged.
        whole: (I, d, h, w), latents of the images.
        channels: Of `whole`.

    Returns:
        (I,) mean square difference in deviations of the channels, to the halved latent and to zero.

    Source:
        Equivariance E(s(x)) = s(E(x)) under scaling s: Kouzelis et al. 2025 (EQ-VAE, section 3). As a figure,
        with this normalisation, it is ours.
    """
    small = channels.standardised(half)
    pooled = F.avg_pool2d(channels.standardised(whole), 2)
    return (small - pooled).square().mean((1, 2, 3)), small.square().mean((1, 2, 3))
