"""The adversarial objective: the critic's loss and the decoder's adaptively weighted loss."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vtp_core.errors import UsageError
from vtp_core.features import Losses, Tally
from vtp_core.objective import AdversarialObjective
from vtp_core.parameters import Dims
from vtp_core.pixels import SIGNED, ValueRange, convert, to_uint8
from vtp_core.schedule import value_at
from vtp_core.step import Step
from vtp_plugins.gan.alarm import SIGNS, advice, counted, critic_signs
from vtp_plugins.gan.augment import DRAWS, augment
from vtp_plugins.gan.config import DinoConfig, GanConfig, PatchGanConfig
from vtp_plugins.gan.critics import Critic, FeatureHeads, PatchGan, StyleGan
from vtp_plugins.gan.features import FrozenFeatures
from vtp_plugins.gan.loss import critic_loss, generator_loss, gradient_penalty, lecam, rightly_judged

_log = logging.getLogger(__name__)


class Gan(AdversarialObjective):
    """An adversarial loss between a view's first global crop and its reconstruction.

    The critic trains from the objective's first step; the decoder's loss starts after `warmup` and rises over
    `ramp`. Everything is computed in float32, on pixels in [-1, 1]. A frozen feature network is not part of
    the critic, so it is neither trained nor saved.

    Source:
        VTP, section 3.3 (stage 2), which names no settings; see `GanConfig` for where they come from.
    """

    config: GanConfig
    critic: Critic

    def __init__(self, config: GanConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.value_range = cast(ValueRange, dims.value_range)
        self.trunk: FrozenFeatures | None = None
        if isinstance(config.critic, DinoConfig):
            self.trunk = FrozenFeatures(config.critic)
            self.critic = FeatureHeads(config.critic, self.trunk.channels)
        elif isinstance(config.critic, PatchGanConfig):
            self.critic = PatchGan(config.critic)
        else:
            self.critic = StyleGan(config.critic)
        self.register_buffer("logit_means", torch.zeros(2))  # of images, of reconstructions: for LeCAM
        self.register_buffer("sign_steps", torch.zeros(len(SIGNS), dtype=torch.int64))

    def forward(self, step: Step) -> Losses:
        """The decoder's loss; zero during `warmup`."""
        config = self.config
        image = step.reconstruct(config.view).image
        exposure = config.exposure(step.index)
        if exposure == 0 or not image.requires_grad:  # decoder and encoder may be frozen
            zero = (image * 0).sum()
            return Losses(terms={"adversarial": zero}, report=self._exposed(zero.detach(), exposure))
        fake = self._logits(step, _wide(image), self.value_range)
        real = None
        if config.loss == "relativistic":
            with torch.no_grad():
                real = self._logits(step, step.batch(config.view).image, "imagenet")
        loss = generator_loss(config.loss, fake, real)
        weight = torch.ones_like(loss.detach())
        if config.adaptive != "none":
            loss, weight = step.balance(
                loss, image, through=config.adaptive, eps=config.eps, limit=config.limit
            )
        if config.alarm_pause and self._alarmed():
            exposure = 0.0
        limited = (weight >= config.limit) if config.adaptive != "none" else torch.zeros_like(weight)
        return Losses(
            terms={"adversarial": loss * exposure},
            report=self._exposed(weight, exposure),
            tally=Tally(sums={"limited": limited.to(weight.dtype)}),
        )

    def critic_loss(self, step: Step) -> Losses:
        """The critic's loss and its regularisers."""
        config, name = self.config, self.config.loss
        real = convert(_wide(step.batch(config.view).image), "imagenet", SIGNED).detach()
        fake = convert(_wide(step.detached(config.view).image), self.value_range, SIGNED).detach()
        if config.round_reconstructions:
            fake = to_uint8(fake, SIGNED).to(fake.dtype) / 127.5 - 1
        gammas = {
            kind: value_at(gamma, step.index, step.total)
            for kind, gamma in (("r1", config.r1), ("r2", config.r2))
        }
        due = any(gammas.values()) and step.index % config.penalty_every == 0
        real.requires_grad_(due and gammas["r1"] > 0)
        fake.requires_grad_(due and gammas["r2"] > 0)
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH) if due else nullcontext():
            real_logits = self._logits(step, real, SIGNED)
            fake_logits = self._logits(step, fake, SIGNED)
            terms = {"critic": critic_loss(name, real_logits, fake_logits)}
            for kind, logits, pixels in (("r1", real_logits, real), ("r2", fake_logits, fake)):
                if pixels.requires_grad:
                    penalty = gradient_penalty(logits, pixels)
                    terms[kind] = penalty * (gammas[kind] / 2 * config.penalty_every)
        if config.lecam:
            means = self.get_buffer("logit_means")
            terms["lecam"] = config.lecam * lecam(real_logits, fake_logits, means[0], means[1])
        return self._judged(step, terms, real_logits.detach(), fake_logits.detach())

    def after_step(self, tally: Tally, index: int) -> None:
        """Counts consecutive steps with the adaptive weight at its limit."""
        steps = self.get_buffer("sign_steps")
        steps[3:] = counted(steps[3:], tally.sums["limited"] > 0)

    def after_critic_step(self, tally: Tally | None, index: int) -> None:
        """Updates the averages of the logits, the counts of alarm signs and the spectral norms."""
        self.critic.after_update()
        if tally is None:
            return
        sums, momentum = tally.sums, self.config.lecam_momentum
        means = self.get_buffer("logit_means")
        means.lerp_((sums["logits"] / sums["count"]).to(means.dtype), 1 - momentum)
        accuracy, size = sums["right"] / (2 * sums["count"]), sums["size"] / (2 * sums["count"])
        exposed = self.config.exposure(index) > 0
        steps = self.get_buffer("sign_steps")
        steps[:3] = counted(steps[:3], critic_signs(self.config, accuracy, size, exposed=exposed))

    def _logits(self, step: Step, image: Tensor, value_range: ValueRange) -> Tensor:
        """The critic's logits (B, L) of images (B, 3, H, W), float32 or wider."""
        side, smallest, kind = min(image.shape[-2:]), self.critic.smallest, self.config.critic.kind
        if side < smallest:
            raise UsageError(
                f"[views.{self.config.view}] size: the critic {kind} needs images of at least {smallest} "
                f"pixels a side, got {side}; give it fewer `layers`"
            )
        with torch.autocast(image.device.type, enabled=False):
            pixels = convert(image, value_range, SIGNED)
            if kinds := self.config.critic.augment:
                pixels = augment(pixels, step.rand(len(pixels), DRAWS).to(pixels.dtype), kinds)
            inputs = (pixels,) if self.trunk is None else self.trunk(pixels)
            logits: Tensor = self.critic(*inputs)
            return logits

    def _exposed(self, weight: Tensor, exposure: float) -> dict[str, Tensor]:
        return {"d_weight": weight, "exposure": torch.full_like(weight, exposure)}

    def _alarmed(self) -> bool:
        return bool((self.get_buffer("sign_steps") >= self.config.alarm_steps).any())

    def _judged(self, step: Step, terms: dict[str, Tensor], real: Tensor, fake: Tensor) -> Losses:
        """The critic's losses with logged values and counts of its logits."""
        right = rightly_judged(self.config.loss, real, fake).to(real.dtype)
        count = real.new_tensor(real.numel())
        if step.rank == 0:
            for line in advice(self.config, self.get_buffer("sign_steps").tolist()):
                _log.warning("step %d: %s", step.index, line)
        report = {
            "logits_real": real.mean(),
            "logits_fake": fake.mean(),
            "accuracy": right / (2 * count),
            "alarm": real.new_tensor(float(self._alarmed())),
        }
        sums = {
            "logits": torch.stack([real.sum(), fake.sum()]),
            "size": real.abs().sum() + fake.abs().sum(),
            "right": right,
            "count": count,
        }
        return Losses(terms=terms, report=report, tally=Tally(sums=sums))


def _wide(image: Tensor) -> Tensor:
    return image.to(torch.promote_types(image.dtype, torch.float32))
