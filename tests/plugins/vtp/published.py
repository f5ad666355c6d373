"""The published model again, from its written description alone: shapes and forward in plain torch.

Reads a published config (a dict) and state dict. Shares no code with the packages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Config = Mapping[str, Any]


def ffn_shapes(kind: str, width: int, ratio: float) -> dict[str, tuple[int, ...]]:
    if kind == "mlp":
        hidden = int(width * ratio)
        shapes = {"fc1": (hidden, width), "fc2": (width, hidden)}
    else:
        step = {"swiglu": 8, "swiglu32": 32, "swiglu64": 64, "swiglu128": 128}[kind]
        hidden = math.ceil(math.floor(ratio * width * 2 / 3) / step) * step
        shapes = {"w1": (hidden, width), "w2": (hidden, width), "w3": (width, hidden)}
    return with_bias({f"mlp.{name}": shape for name, shape in shapes.items()})


def with_bias(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    weights = {f"{name}.weight": shape for name, shape in shapes.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in shapes.items()}


def norm_shapes(name: str, kind: str, width: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": (width,)}
    return found if kind == "rmsnorm" else found | {f"{name}.bias": (width,)}


def vit_shapes(config: Config, part: str, ratio: float) -> dict[str, tuple[int, ...]]:
    width, heads = config[f"{part}_embed_dim"], config[f"{part}_num_heads"]
    norm = config[f"{part}_norm_layer"]
    block = with_bias({"attn.qkv": (3 * width, width), "attn.proj": (width, width)})
    block |= norm_shapes("norm1", norm, width) | norm_shapes("norm2", norm, width)
    block |= ffn_shapes(config[f"{part}_ffn_layer"], width, ratio)
    if config[f"{part}_use_qk_norm"]:
        block |= {"attn.q_norm.weight": (width // heads,), "attn.k_norm.weight": (width // heads,)}
    if config[f"{part}_init_values"]:
        block |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
    shapes = {f"blocks.{i}.{k}": v for i in range(config[f"{part}_depth"]) for k, v in block.items()}
    return shapes | norm_shapes("norm", norm, width) | {"rope_embed.periods": (width // heads // 4,)}


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every key of the state dict with its shape."""
    width, patch = config["vision_embed_dim"], config["vision_patch_size"]
    channels = config["vision_feature_bottleneck"]
    trunk = vit_shapes(config, "vision", config["vision_mlp_ratio"])
    trunk |= {"cls_token": (1, 1, width), "mask_token": (1, width)}
    trunk |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    if channels != width:
        trunk["feature_bottleneck.weight"] = (channels, width)
    found = {f"trunk.{key}": shape for key, shape in trunk.items()}
    if config["train_reconstruction"]:
        wide = config["decoder_embed_dim"]
        decoder = vit_shapes(config, "decoder", 4.0)
        decoder |= with_bias({"proj_in": (wide, channels, 1, 1), "proj_out": (3 * 16**2, wide, 1, 1)})
        found |= {f"pixel_decoder.{key}": shape for key, shape in decoder.items()}
    if config["train_clip"]:
        text = config["text_embed_dim"]
        found["visual_proj.weight"] = (text, width if config["vision_bottleneck_ae_only"] else channels)
        found["token_embedding.weight"] = (config["text_vocab_size"], text)
        found["positional_embedding"] = (config["text_context_length"] + config["text_embed_cls"], text)
        found |= {"ln_final.weight": (text,), "ln_final.bias": (text,)}
        hidden = int(text * config["text_mlp_ratio"])
        block = with_bias(
            {"attn.out_proj": (text, text), "mlp.c_fc": (hidden, text), "mlp.c_proj": (text, hidden)}
        )
        block |= {"attn.in_proj_weight": (3 * text, text), "attn.in_proj_bias": (3 * text,)}
        block |= norm_shapes("ln_1", "layernorm", text) | norm_shapes("ln_2", "layernorm", text)
        if config["text_ls_init_value"] is not None:
            block |= {"ls_1.gamma": (text,), "ls_2.gamma": (text,)}
        for i in range(config["text_depth"]):
            found |= {f"text_transformer.resblocks.{i}.{key}": shape for key, shape in block.items()}
        if config["text_proj_type"] == "linear":
            matrix = {"text_projection": (text, text)}
            found |= with_bias(matrix) if config["text_proj_bias"] else matrix
        scalar = (1,) if config["nonscalar_logit_scale"] else ()
        found["logit_scale"] = scalar
        if config["init_logit_bias"] is not None:
            found["logit_bias"] = scalar
    return found


class Published:
    """The forward in float64; rotary tables, and the rotation itself, in `rope`."""

    def __init__(self, config: Config, state: State, rope: torch.dtype = torch.float64) -> None:
        self.config, self.rope = config, rope
        self.periods = {key: value for key, value in state.items() if key.endswith("periods")}
        self.state = {key: value.double() for key, value in state.items()}

    def norm(self, x: Tensor, name: str, kind: str) -> Tensor:
        weight = self.state[f"{name}.weight"]
        if kind == "rmsnorm":
            return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
        eps = 1e-6 if kind == "layernorm" else 1e-5
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * weight + self.state[f"{name}.bias"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def tables(self, name: str, grid: tuple[int, int], head: int) -> tuple[Tensor, Tensor]:
        if self.rope == torch.float64:
            periods = 100.0 ** (2 * torch.arange(head // 4, dtype=torch.float64) / (head / 2))
        else:
            periods = self.periods[f"{name}.rope_embed.periods"]
        rows, columns = (2 * (torch.arange(0.5, n, dtype=self.rope) / n) - 1 for n in grid)
        angles = []
        for i in range(grid[0]):
            for j in range(grid[1]):
                both = [2 * math.pi * rows[i] / periods, 2 * math.pi * columns[j] / periods]
                angles.append(torch.cat(both * 2))
        stacked = torch.stack(angles)
        return stacked.cos(), stacked.sin()

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, H, N, d); the class token in front, if there is one, is not turned."""
        x = x.to(self.rope)
        front = x.shape[2] - cos.shape[0]
        half = x.shape[3] // 2
        swapped = torch.cat((-x[..., half:], x[..., :half]), -1)
        turned = x * cos.new_ones(()) if front == x.shape[2] else x.clone()
        turned[:, :, front:] = x[:, :, front:] * cos + swapped[:, :, front:] * sin
        return turned.double()

    def blocks(self, x: Tensor, name: str, part: str, grid: tuple[int, int]) -> list[Tensor]:
        """Tokens (B, N, D) to the output of every block."""
        heads, norm = self.config[f"{part}_num_heads"], self.config[f"{part}_norm_layer"]
        head = x.shape[-1] // heads
        cos, sin = self.tables(name, grid, head)
        outputs = []
        for i in range(self.config[f"{part}_depth"]):
            block = f"{name}.blocks.{i}"
            rows, tokens, width = x.shape
            qkv = self.linear(self.norm(x, f"{block}.norm1", norm), f"{block}.attn.qkv")
            q, k, v = qkv.reshape(rows, tokens, 3, heads, head).permute(2, 0, 3, 1, 4)
            if self.config[f"{part}_use_qk_norm"]:
                q = self.norm(q, f"{block}.attn.q_norm", "rmsnorm")
                k = self.norm(k, f"{block}.attn.k_norm", "rmsnorm")
            q, k = self.turn(q, cos, sin), self.turn(k, cos, sin)
            mixed = (q @ k.transpose(-1, -2) / math.sqrt(head)).softmax(-1) @ v
            y = self.linear(mixed.transpose(1, 2).reshape(rows, tokens, width), f"{block}.attn.proj")
            x = x + y * self.state.get(f"{block}.ls1.gamma", 1.0)
            y = self.norm(x, f"{block}.norm2", norm)
            if self.config[f"{part}_ffn_layer"] == "mlp":
                y = self.linear(y, f"{block}.mlp.fc1")
                y = self.linear(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), f"{block}.mlp.fc2")
            else:
                gate = self.linear(y, f"{block}.mlp.w1")
                gated = gate * torch.sigmoid(gate) * self.linear(y, f"{block}.mlp.w2")
                y = self.linear(gated, f"{block}.mlp.w3")
            x = x + y * self.state.get(f"{block}.ls2.gamma", 1.0)
            outputs.append(x)
        return outputs

    def grid(self, image: Tensor) -> tuple[int, int]:
        patch = self.config["vision_patch_size"]
        return image.shape[2] // patch, image.shape[3] // patch

    def encoder(self, image: Tensor) -> list[Tensor]:
        """Block outputs, then the final norm's: (B, 1 + N, D) each."""
        patch, (height, width) = self.config["vision_patch_size"], self.grid(image)
        rows = image.shape[0]
        cut = image.double().reshape(rows, 3, height, patch, width, patch)
        cut = cut.permute(0, 2, 4, 1, 3, 5).reshape(rows, height * width, -1)
        weight = self.state["trunk.patch_embed.proj.weight"].flatten(1)
        patches = cut @ weight.T + self.state["trunk.patch_embed.proj.bias"]
        x = torch.cat((self.state["trunk.cls_token"].expand(rows, -1, -1), patches), 1)
        outputs = self.blocks(x, "trunk", "vision", (height, width))
        return [*outputs, self.norm(outputs[-1], "trunk.norm", self.config["vision_norm_layer"])]

    def squeeze(self, tokens: Tensor) -> Tensor:
        weight = self.state.get("trunk.feature_bottleneck.weight")
        return tokens if weight is None else tokens @ weight.T

    def latents(self, image: Tensor) -> Tensor:
        tokens = self.squeeze(self.encoder(image)[-1])[:, 1:]
        return tokens.transpose(1, 2).reshape(len(image), -1, *self.grid(image))

    def decode(self, z: Tensor) -> Tensor:
        rows, _, height, width = z.shape
        flat = z.double().flatten(2).transpose(1, 2)
        name, upscale = "pixel_decoder", 16
        x = flat @ self.state[f"{name}.proj_in.weight"].flatten(1).T + self.state[f"{name}.proj_in.bias"]
        x = self.blocks(x, name, "decoder", (height, width))[-1]
        x = self.norm(x, f"{name}.norm", self.config["decoder_norm_layer"])
        x = x @ self.state[f"{name}.proj_out.weight"].flatten(1).T + self.state[f"{name}.proj_out.bias"]
        x = x.reshape(rows, height, width, 3, upscale, upscale).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(rows, 3, height * upscale, width * upscale)

    def clip_image(self, image: Tensor) -> Tensor:
        tokens = self.encoder(image)[-1]
        if not self.config["vision_bottleneck_ae_only"]:
            tokens = self.squeeze(tokens)
        pooled = self.config["vision_clip_feat"] == "pooled"
        chosen = tokens[:, 1:].mean(1) if pooled else tokens[:, 0]
        return chosen @ self.state["visual_proj.weight"].T

    def clip_text(self, ids: Tensor) -> Tensor:
        x = self.state["token_embedding.weight"][ids] + self.state["positional_embedding"]
        _, tokens, width = x.shape
        heads = self.config["text_num_heads"]
        mask = torch.zeros(tokens, tokens, dtype=x.dtype)
        if not self.config["text_no_causal_mask"]:
            mask = mask.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -math.inf)
        for i in range(self.config["text_depth"]):
            block = f"text_transformer.resblocks.{i}"
            y = self.norm(x, f"{block}.ln_1", "layernormbf16")
            qkv = y @ self.state[f"{block}.attn.in_proj_weight"].T + self.state[f"{block}.attn.in_proj_bias"]
            q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
            scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads) + mask
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            y = self.linear(mixed, f"{block}.attn.out_proj")
            x = x + y * self.state.get(f"{block}.ls_1.gamma", 1.0)
            y = self.linear(self.norm(x, f"{block}.ln_2", "layernormbf16"), f"{block}.mlp.c_fc")
            if self.config["text_quick_gelu"]:
                y = y / (1 + torch.exp(-1.702 * y))
            else:
                y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
            x = x + self.linear(y, f"{block}.mlp.c_proj") * self.state.get(f"{block}.ls_2.gamma", 1.0)
        x = self.norm(x, "ln_final", "layernormbf16")
        pool = self.config["text_pool_type"]
        if pool == "argmax":
            x = torch.stack([row[int(tokens.argmax())] for row, tokens in zip(x, ids, strict=True)])
        elif pool != "none":
            x = x[:, {"first": 0, "last": -1}[pool]]
        if self.config["text_proj_type"] == "none":
            return x
        if self.config["text_proj_bias"]:
            return self.linear(x, "text_projection")
        return x @ self.state["text_projection"]
