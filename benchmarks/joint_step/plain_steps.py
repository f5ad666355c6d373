"""The three training steps of a plain torch script: contrast, self-distillation, reconstruction.

Each has its own AdamW, gradient clipping and (the second) EMA loop. Nothing is shared but the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.joint_step import setting
from benchmarks.joint_step.plain_networks import Decoder, Encoder, Head, Text
from vtp_core.batch import Batch
from vtp_core.training.networks import Networks


class PlainSteps:
    """Three optimisers over one set of networks.

    Args:
        sizes: Sizes of the networks.
        networks: Those of the framework, whose weights are copied.
        batches: The rows of every step.
        ids: (B, T) token ids of the captions.
        autocast: Dtype of the networks' forwards; None: float32.
        device: Where all of it goes.
    """

    def __init__(
        self,
        sizes: setting.Sizes,
        networks: Networks,
        batches: Mapping[str, Batch],
        ids: Tensor,
        autocast: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.encoder, self.decoder, self.text = Encoder(sizes), Decoder(sizes), Text(sizes)
        self.head = Head(sizes)
        self.image = nn.Linear(sizes.width, sizes.width, bias=False)
        self.latent = nn.Linear(sizes.width, setting.CHANNELS, bias=False)
        self.scale = nn.Parameter(torch.zeros(1))
        self._copy(networks)
        for module in (self.encoder, self.decoder, self.text, self.head, self.image, self.latent):
            module.to(device)
        self.scale.data = self.scale.data.to(device)
        self.device = device
        self.teacher = copy.deepcopy(nn.ModuleList((self.encoder, self.head))).requires_grad_(False)
        self.batches = {view: batch.to(device) for view, batch in batches.items()}
        self.ids, self.autocast = ids.to(device), autocast
        self.losses = {"clip": self.contrast, "ssl": self.distillation, "ae": self.pixels}
        self.optimizers = {
            "clip": self._adamw(self.encoder, self.text, self.image, extra=[self.scale]),
            "ssl": self._adamw(self.encoder, self.head),
            "ae": self._adamw(self.encoder, self.latent, self.decoder),
        }

    def step(self) -> dict[str, float]:
        """Makes the three steps; returns their losses by term."""
        found: dict[str, float] = {}
        for name, optimizer in self.optimizers.items():
            loss, terms = self.losses[name]()
            loss.backward()
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, setting.CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
            if name == "ssl":
                self._follow()
            found |= {term: value.item() for term, value in terms.items()}
        return found

    def contrast(self) -> tuple[Tensor, dict[str, Tensor]]:
        """CLIP's loss."""
        with self._cast():
            images = self.image(self.encoder(self.batches["image"].image)[:, 0])
            texts = self.text(self.ids)
        images, texts = (F.normalize(x.float(), dim=-1) for x in (images, texts))
        logits = self.scale.exp() * images @ texts.T
        own = torch.arange(len(logits), device=self.device)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return loss, {"clip/contrast": loss.detach()}

    def pixels(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The L1 loss."""
        target = self.batches["rec"].image
        with self._cast():
            latent = self.latent(self.encoder(target)[:, 1:])
            side = setting.IMAGE // setting.PATCH
            image = self.decoder(latent.transpose(1, 2).unflatten(2, (side, side)))
        loss = (image.float() - target).abs().mean()
        return loss * setting.PIXEL_WEIGHT, {"l1/pixels": loss.detach()}

    def distillation(self) -> tuple[Tensor, dict[str, Tensor]]:
        """DINO, iBOT and KoLeo; patches are picked before the head."""
        batch = self.batches["ssl"]
        assert batch.masks is not None
        samples = len(batch)
        crops, locals_ = (batch.crops[name].transpose(0, 1).flatten(0, 1) for name in ("global", "local"))
        mask = batch.masks.mask.transpose(0, 1).flatten(0, 1)
        weight = batch.masks.weight.transpose(0, 1).flatten(0, 1)[mask]
        with torch.no_grad(), self._cast():
            teacher, teacher_head = self.teacher
            tokens = teacher(crops)
            targets = sinkhorn(teacher_head(tokens[:, 0]).float()).chunk(setting.GLOBALS)
            patch_targets = sinkhorn(teacher_head(tokens[:, 1:][mask]).float())
        with self._cast():
            tokens, small = self.encoder(crops, mask), self.encoder(locals_)
            student = self.head(tokens[:, 0]), self.head(small[:, 0])
            patches = self.head(tokens[:, 1:][mask])
        pairs = [
            -(target * guess).sum(-1).mean()
            for kind, rows in enumerate(student)
            for at, guess in enumerate(log_softmax(rows).chunk((setting.GLOBALS, setting.LOCALS)[kind]))
            for other, target in enumerate(targets)
            if kind == 1 or at != other
        ]
        dino = torch.stack(pairs).mean()
        mim = -((patch_targets * log_softmax(patches)).sum(-1) * weight).sum() / len(mask)
        spread = sum(_spread(rows) for rows in tokens[:, 0].float().chunk(setting.GLOBALS))
        assert isinstance(spread, Tensor) and samples > 1
        terms = {"dino/distillation": dino, "mim/distillation": mim, "koleo/spread": spread}
        total = dino + mim + setting.KOLEO_WEIGHT * spread
        return total, {name: value.detach() for name, value in terms.items()}

    def _copy(self, networks: Networks) -> None:
        named = networks.named
        pairs = (
            (self.encoder, "tokenizer.encoder"), (self.decoder, "tokenizer.decoder"),
            (self.text, "objectives.clip.text"), (self.image, "objectives.clip.image.projection"),
            (self.latent, "tokenizer.bottleneck"),
        )  # fmt: skip
        for module, name in pairs:
            state = named(name).state_dict()
            module.load_state_dict({key.removeprefix("proj."): value for key, value in state.items()}
                                   if module is self.latent else state)  # fmt: skip
        head = named("objectives.dino.head").state_dict() | named("objectives.dino.prototypes").state_dict()
        self.head.load_state_dict(head)
        scale = networks.parameters_of("clip")["objectives.clip.logit_scale"]
        self.scale.data.copy_(scale.detach())

    def _adamw(self, *modules: nn.Module, extra: list[nn.Parameter] | None = None) -> torch.optim.AdamW:
        parameters = [p for module in modules for p in module.parameters()] + (extra or [])
        return torch.optim.AdamW(parameters, lr=setting.LEARNING_RATE, weight_decay=setting.WEIGHT_DECAY)

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast is not None)

    @torch.no_grad()
    def _follow(self) -> None:
        students = nn.ModuleList((self.encoder, self.head)).parameters()
        for old, new in zip(self.teacher.parameters(), students, strict=True):
            old.mul_(setting.MOMENTUM).add_(new, alpha=1 - setting.MOMENTUM)


def log_softmax(scores: Tensor) -> Tensor:
    """The student's log-probabilities of scores (n, K), float32."""
    return (scores.float() / setting.STUDENT_TEMPERATURE).log_softmax(-1)


@torch.no_grad()
def sinkhorn(scores: Tensor) -> Tensor:
    """Three Sinkhorn-Knopp iterations over scores (n, K); rows of the result add up to 1."""
    plan = (scores / setting.TEACHER_TEMPERATURE).exp().T
    plan /= plan.sum()
    prototypes, rows = plan.shape
    for _ in range(3):
        plan /= plan.sum(1, keepdim=True) * prototypes
        plan /= plan.sum(0, keepdim=True) * rows
    return (plan * rows).T


def _spread(rows: Tensor) -> Tensor:
    unit = F.normalize(rows, dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return -((unit - unit[nearest]).norm(dim=1) + 1e-8).log().mean()
