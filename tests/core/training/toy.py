"""Tiny float64 networks and one objective of every kind, for tests of the joint step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.batch import Batch, Masks
from vtp_core.bottleneck import Bottleneck
from vtp_core.config import ObjectiveConfig
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.features import Features, Latent, Losses, Tally, Tokens
from vtp_core.objective import AdversarialObjective, Objective
from vtp_core.parameters import Dims, ParamRule
from vtp_core.training.forward.seeds import generator
from vtp_core.training.networks import Networks
from vtp_core.training.optim.ema import build_ema
from vtp_core.view import ViewNeed

WIDTH, PATCH, CHANNELS, CODES = 12, 4, 6, 10
DIMS = Dims(width=WIDTH, patch=PATCH, depth=2, has_cls=True, channels=CHANNELS, value_range=(-1.0, 1.0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 19), nn.GELU(), nn.Linear(19, WIDTH))

    def forward(self, drop_path: float, *sets: Tensor) -> tuple[Tensor, ...]:
        def drop(x: Tensor) -> Tensor:
            if drop_path == 0 or not self.training:
                return x
            kept = (torch.rand(len(x), 1, 1) >= drop_path).to(x.dtype)
            return x * kept / (1 - drop_path)

        out = []
        for x in sets:
            q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
            weights = (q @ k.transpose(-2, -1) / WIDTH**0.5).softmax(
                -1
            )  # differentiable twice, unlike the fused form
            x = x + drop(weights @ v)
            out.append(x + drop(self.mlp(x)))
        return tuple(out)


class ToyEncoder(Encoder):
    width, patch, depth, has_cls = WIDTH, PATCH, 2, True

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.mask = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        sets, shapes = [], []
        for image, mask in zip(images, masks, strict=True):
            x = self.embed(image.flatten(0, 1))
            shapes.append((image.shape[0], image.shape[1], x.shape[-2], x.shape[-1]))
            x = x.flatten(2).transpose(1, 2)
            if mask is not None:
                x = torch.where(mask.flatten(0, 1)[..., None], self.mask.to(x.dtype), x)
            sets.append(torch.cat([self.cls.expand(len(x), -1, -1) + 0 * self.mask, x], 1))
        taps: dict[int, list[Tensor]] = {}
        for index, block in enumerate(self.layers):
            sets = list(block(drop_path, *sets))
            if index in layers:
                taps[index] = sets
        tokens = []
        for number, (x, (rows, crops, h, w)) in enumerate(zip(sets, shapes, strict=True)):
            x = self.norm(x).unflatten(0, (rows, crops))
            tapped = {i: tap[number].unflatten(0, (rows, crops))[:, :, 1:] for i, tap in taps.items()}
            tokens.append(Tokens(cls=x[:, :, 0], patches=x[:, :, 1:], grid=(h, w), layers=tapped))
        return tokens

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)


class ToyLinear(Bottleneck):
    channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, CHANNELS, bias=False)

    def forward(self, features: Features) -> Latent:
        def project(tokens: Tokens) -> Tokens:
            cls = None if tokens.cls is None else self.project(tokens.cls)
            return Tokens(cls=cls, patches=self.project(tokens.patches), grid=tokens.grid)

        return Latent(crops={name: project(tokens) for name, tokens in features.crops.items()})


class ToyVQ(ToyLinear):
    """EMA codebook in buffers; a commitment term; `forward` only tallies."""

    codebook_sizes = (CODES,)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.randn(CODES, CHANNELS))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features: Features) -> Latent:
        latent = super().forward(features)
        tokens = latent.crops["global"]
        y = tokens.patches
        codes = torch.cdist(y.detach().flatten(0, 2), self.codebook).argmin(1).view(y.shape[:3])
        picked = self.codebook[codes]
        one_hot = F.one_hot(codes.flatten(), CODES).to(y.dtype)
        quantised = Tokens(cls=tokens.cls, patches=y + (picked - y).detach(), grid=tokens.grid)
        tally = Tally(
            sums={"count": one_hot.sum(0), "sum": one_hot.T @ y.detach().flatten(0, 2)},
            rows={"first": y.detach()[:, 0, 0]},
        )
        crops = {**latent.crops, "global": quantised}
        return Latent(crops=crops, aux={"commit": 0.25 * (y - picked).square().mean()}, tally=tally)

    @torch.no_grad()
    def after_step(self, tally: Tally, index: int) -> None:
        used = tally.sums["count"] > 0
        mean = tally.sums["sum"] / tally.sums["count"].clamp_min(1)[:, None]
        self.codebook[used] = 0.9 * self.codebook[used] + 0.1 * mean[used]
        self.seen += tally.sums["count"].sum()


class ToyDecoder(Decoder):
    value_range = (-1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(CHANNELS, WIDTH)
        self.layers = nn.ModuleList([Block()])
        self.out = nn.Linear(WIDTH, 3 * PATCH * PATCH)

    def forward(self, z: Tensor) -> Tensor:
        h, w = z.shape[-2:]
        x = self.inward(z.flatten(2).transpose(1, 2))
        for block in self.layers:
            (x,) = block(0.0, x)
        return F.pixel_shuffle(self.out(x).transpose(1, 2).unflatten(2, (h, w)), PATCH)

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def last_layer(self) -> nn.Module:
        return self.out


def mlp(inward: int, outward: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inward, 17), nn.GELU(), nn.Linear(17, outward))


def critic_network(channels: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 7, 3, 2, 1), nn.GELU(), nn.Conv2d(7, channels, 3, 2, 1))


class ToyConfig(ObjectiveConfig):
    use: str = "toy"
    view: str = "image"
    rows: int | None = None
    through_bottleneck: bool = False
    mode: str = "output"
    crops: tuple[str, ...] = ("global",)
    masked: bool = False
    layers: tuple[int, ...] = ()

    def views(self) -> Mapping[str, ViewNeed]:
        need = ViewNeed(rows=self.rows, crops=self.crops, masked=self.masked, layers=self.layers)
        return {self.view: need}


class ToyObjective(Objective):
    config: ToyConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(ToyConfig(**fields), DIMS)  # type: ignore[arg-type]


class Clip(ToyObjective):
    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        width = CHANNELS if self.config.through_bottleneck else WIDTH
        self.text = nn.Sequential(nn.Linear(3, 17), nn.GELU(), nn.Linear(17, 8))
        self.project = nn.Linear(width, 8, bias=False)
        self.scale = nn.Parameter(torch.tensor([1.0]))

    def forward(self, step):
        verb = step.tokenize if self.config.through_bottleneck else step.encode
        batch = step.batch(self.config.view)
        image = F.normalize(self.project(verb(self.config.view)["global"].cls[:, 0]), dim=-1)
        words = torch.tensor([[len(t), ord(t[0]), ord(t[-1])] for t in batch.text], dtype=image.dtype) / 50
        text = F.normalize(step.call(self.text, words), dim=-1)
        images, texts = step.gather(image), step.gather(text)
        target = torch.arange(len(image)) * step.world_size + step.rank
        scale = self.scale.exp()
        loss = F.cross_entropy(scale * image @ texts.T, target) + F.cross_entropy(
            scale * text @ images.T, target
        )
        return Losses(terms={"nce": loss / 2}, report={"scale": scale.detach().reshape(())})

    def rules(self):
        return [ParamRule(pattern="scale", decay=0.0, clamp=(0.0, 1.1))]


def sinkhorn(x: Tensor, step, rounds: int = 3) -> Tensor:
    q = (x / 0.1).exp()
    rows = step.sum(torch.tensor(float(len(x)), dtype=x.dtype))
    q = q / step.sum(q.sum())
    for _ in range(rounds):
        q = q / step.sum(q.sum(0)) / x.shape[1]
        q = q / q.sum(1, keepdim=True) / rows
    return q * rows


class Dino(ToyObjective):
    shares = ("head",)

    def __init__(self, **fields: object) -> None:
        super().__init__(view="ssl", crops=("global", "local"), masked=True, **fields)
        bottleneck = self.config.through_bottleneck
        self.head = mlp(CHANNELS if bottleneck else WIDTH, 14)
        self.teachers = ("head", "tokenizer.encoder", *(["tokenizer.bottleneck"] if bottleneck else []))
        self.register_buffer("center", torch.zeros(14))

    def forward(self, step):
        student = (step.tokenize if self.config.through_bottleneck else step.encode)("ssl", masked=True)
        teacher = step.teacher.tokenize if self.config.through_bottleneck else step.teacher.encode
        with torch.no_grad():
            raw = step.teacher.own(self.head)(teacher("ssl")["global"].cls)
            target = sinkhorn(raw.flatten(0, 1), step).view_as(raw)
        scores_g, scores_l = self.head(student["global"].cls), self.head(student["local"].cls)

        def cross_entropy(a: Tensor, b: Tensor) -> Tensor:
            return -(b * a.log_softmax(-1)).sum(-1).mean()

        local = [cross_entropy(scores_l[:, j], target[:, i]) for i in range(2) for j in range(3)]
        swapped = cross_entropy(scores_g[:, 0], target[:, 1]) + cross_entropy(scores_g[:, 1], target[:, 0])
        return Losses(terms={"dino": (sum(local) + swapped) / 8}, tally=Tally(sums={"raw": raw.sum((0, 1))}))

    @torch.no_grad()
    def after_step(self, tally, index):
        self.center.mul_(0.9).add_(tally.sums["raw"], alpha=0.1)


class Mim(ToyObjective):
    def __init__(self, **fields: object) -> None:
        super().__init__(view="ssl", masked=True, **fields)

    def forward(self, step):
        masks, head = step.batch("ssl").masks, step.shared("dino.head")
        verb = step.tokenize if self.config.through_bottleneck else step.encode
        teacher = step.teacher.tokenize if self.config.through_bottleneck else step.teacher.encode
        x = verb("ssl", masked=True)["global"].patches[masks.mask]
        with torch.no_grad():
            target = sinkhorn(step.teacher.own(head)(teacher("ssl")["global"].patches[masks.mask]), step)
        scores = step.call(head, x)
        values = -(target * scores.log_softmax(-1)).sum(-1)
        return Losses(terms={"mim": step.mean(values, masks.weight[masks.mask])})


class Koleo(ToyObjective):
    def __init__(self, **fields: object) -> None:
        super().__init__(view="ssl", masked=True, **fields)

    def forward(self, step):
        tokens = F.normalize(step.encode("ssl", masked=True)["global"].cls, dim=-1)
        total = torch.zeros((), dtype=tokens.dtype)
        for crop in range(2):
            own, every = tokens[:, crop], step.gather(tokens[:, crop])
            near = own.detach() @ every.detach().T
            near[torch.arange(len(own)), torch.arange(len(own)) * step.world_size + step.rank] = -2
            total = total - ((own - every[near.argmax(1)]).norm(dim=-1) + 1e-8).log().mean()
        return Losses(terms={"koleo": 0.1 * total})


class L1(ToyObjective):
    def __init__(self, view: str = "rec", **fields: object) -> None:
        super().__init__(view=view, **fields)

    def forward(self, step):
        image = step.reconstruct(self.config.view).image
        return Losses(terms={"l1": (image - step.batch(self.config.view).image).abs().mean()})


class Perceptual(ToyObjective):
    def __init__(self, view: str = "rec", **fields: object) -> None:
        super().__init__(view=view, **fields)
        self.trunk = critic_network(5).requires_grad_(False)

    def forward(self, step):
        image = step.reconstruct(self.config.view).image
        with torch.no_grad():
            target = self.trunk(step.batch(self.config.view).image)
        return Losses(terms={"features": (self.trunk(image) - target).square().mean()})


class Gan(AdversarialObjective, ToyObjective):
    def __init__(self, view: str = "rec", **fields: object) -> None:
        super().__init__(view=view, **fields)
        self.critic = critic_network()

    def forward(self, step):
        image = step.reconstruct(self.config.view).image
        term, weight = step.balance(-self.critic(image).mean(), image, through=self.config.mode)
        return Losses(terms={"gan": term}, report={"d_weight": weight})

    def critic_loss(self, step):
        fake, real = step.detached(self.config.view).image, step.batch(self.config.view).image
        loss = F.relu(1 - self.critic(real)).mean() + F.relu(1 + self.critic(fake)).mean()
        inputs = real.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(inputs).sum(), inputs, create_graph=True)
        return Losses(terms={"hinge": loss, "r1": 0.1 * slope.square().sum((1, 2, 3)).mean()})


class Align(ToyObjective):
    """Latents aligned with a frozen network (VA-VAE), with taps of a middle block."""

    def __init__(self, view: str = "rec", **fields: object) -> None:
        super().__init__(view=view, layers=(0,), **fields)
        self.weight = nn.Linear(CHANNELS, 8)

    def forward(self, step):
        z = self.weight(step.tokenize(self.config.view)["global"].patches[:, 0]).mean(1)
        with torch.no_grad():
            y = step.frozen("vfm")(step.batch(self.config.view).image).mean((2, 3))
        tap = step.encode(self.config.view)["global"].layers[0].square().mean()
        return Losses(terms={"cos": (1 - F.cosine_similarity(z, y)).mean(), "tap": 0.01 * tap})


class Flow(ToyObjective):
    """A small flow-matching network on (detached) latents, and a REPA-E-like term that reaches only them."""

    def __init__(self, view: str = "rec", **fields: object) -> None:
        super().__init__(view=view, **fields)
        self.net = mlp(CHANNELS + 1, CHANNELS)

    def velocity(self, step, z, t, noise):
        mixed = (1 - t)[:, None, None] * z + t[:, None, None] * noise
        return self.net(torch.cat([mixed, t[:, None, None].expand(*mixed.shape[:2], 1)], -1))

    def forward(self, step):
        z = step.tokenize(self.config.view)["global"].patches
        own = z[:, 0].detach()
        t = step.rand(len(own)).to(own.dtype)
        noise = step.randn(len(own), *own.shape[1:]).to(own.dtype)
        flow = (self.velocity(step, own, t, noise) - (noise - own)).square().mean()
        to_latent = step.confine(self.velocity(step, z[:, 0], t, noise).square().mean(), z)
        return Losses(terms={"flow": flow, "repa": 0.3 * to_latent})


class Pixels(ToyObjective):
    """Needs a gradient with respect to pixels: uses the attached encode."""

    def forward(self, step):
        batch = step.batch(self.config.view)
        batch.crops["global"].requires_grad_()
        score = step.encode(self.config.view, attached=True).cls.square().sum()
        (slope,) = torch.autograd.grad(score, batch.crops["global"], create_graph=True)
        return Losses(terms={"slope": 0.01 * slope.square().mean()})


WEIGHTS = {"clip": 1.0, "l1": 0.1, "perceptual": 0.1, "gan": 0.05, "koleo": 0.5}


def scenario(kind: str) -> dict[str, Objective]:
    """Objectives of a named set-up: views separate, through the bottleneck, one shared view, generation."""

    def weigh(**objectives: type) -> dict[str, Objective]:
        return objectives  # type: ignore[return-value]

    w = {name: {"weight": value} for name, value in WEIGHTS.items()}
    if kind == "vtp":
        return weigh(
            clip=Clip(**w["clip"]),
            dino=Dino(),
            mim=Mim(),
            koleo=Koleo(**w["koleo"]),
            l1=L1(**w["l1"]),
            perceptual=Perceptual(**w["perceptual"]),
            gan=Gan(**w["gan"]),
        )
    if kind == "last_layer":
        return weigh(l1=L1(**w["l1"]), gan=Gan(mode="last_layer", **w["gan"]))
    if kind == "bottleneck":
        through = {"through_bottleneck": True}
        return weigh(clip=Clip(**through), dino=Dino(**through), mim=Mim(**through), l1=L1())
    if kind == "one_view":
        return weigh(
            gan=Gan(view="image", rows=4, **w["gan"]),
            clip=Clip(),
            l1=L1(view="image", rows=4),
            perceptual=Perceptual(view="image"),
            align=Align(view="image"),
        )
    if kind == "generation":
        return weigh(l1=L1(), flow=Flow())
    if kind == "pixels":
        return weigh(pixels=Pixels(), clip=Clip())
    raise ValueError(kind)


def build(kind: str, *, vq: bool = False, seed: int = 7) -> Networks:
    """The networks of a scenario in float64, the same whenever called."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            objectives = scenario(kind)
            frozen = {"vfm": critic_network(8).requires_grad_(False)}
            bottleneck = ToyVQ() if vq else ToyLinear()
            return Networks(
                encoder=ToyEncoder(),
                bottleneck=bottleneck,
                decoder=ToyDecoder(),
                objectives=objectives,
                frozen=frozen,
            )
        finally:
            torch.set_default_dtype(before)


def add_teachers(networks: Networks) -> Networks:
    """The networks with the EMA copies that their objectives list."""
    build_ema(networks, 0.9)
    return networks


def batches(index: int, *, rank: int = 0, world_size: int = 1, rows: int = 8) -> dict[str, Batch]:
    """Random float64 views; the same global rows at any world size."""
    found = {}
    for view in ("image", "ssl", "rec"):
        g = generator("toy", view, index)
        crops = {
            "global": torch.randn(
                rows, 2 if view == "ssl" else 1, 3, 16, 16, generator=g, dtype=torch.float64
            )
        }
        if view == "ssl":
            crops["local"] = torch.randn(rows, 3, 3, 8, 8, generator=g, dtype=torch.float64)
        shape = crops["global"].shape[:2]
        mask = torch.rand(*shape, 16, generator=g) < torch.rand(*shape, 1, generator=g) * 0.6
        mask[rank_rows(rows, 1, 2)] = False  # on two ranks, one has no masked patch at all
        weight = mask / mask.sum(-1, keepdim=True).clamp_min(1)
        mine = slice(rank, None, world_size)
        words = [f"{'abcdefgh'[i % 8]}{'x' * i}" for i in range(rows)]
        found[view] = Batch(
            crops={name: crop[mine] for name, crop in crops.items()},
            keys=tuple(f"{view}{i}" for i in range(rows))[mine],
            text=tuple(words)[mine],
            label=torch.arange(rows)[mine],
            masks=Masks(mask=mask[mine], weight=weight.double()[mine]),
            rows=rows,
        )
    return found


def rank_rows(rows: int, rank: int, world_size: int) -> slice:
    return slice(rank, rows, world_size)


def gradients(networks: Networks) -> dict[str, Tensor]:
    """Full name -> gradient (zeros where there is none), whole tensors even when sharded."""
    from torch.distributed.tensor import DTensor

    found = {}
    for owner in (*networks.owners(), *networks.critics()):
        for name, parameter in networks.parameters_of(owner).items():
            grad = parameter.grad
            if isinstance(grad, DTensor):
                grad = grad.full_tensor()
            elif grad is None:
                grad = torch.zeros(parameter.shape, dtype=parameter.dtype)
            found[name] = grad.detach().clone()
    return found


def largest_difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> tuple[float, str]:
    assert left.keys() == right.keys()
    return max(((left[name] - right[name]).abs().max().item(), name) for name in left)
