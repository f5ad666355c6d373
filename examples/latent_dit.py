"""A diffusion transformer in plain PyTorch, from files alone: latents, and statistics of `config.json`.

    vtp encode vtp-nano --source samples -o latents/
    vtp export vtp-nano tokenizer/
    python examples/latent_dit.py latents/ tokenizer/ samples/ 2000

Rectified flow (arXiv 2209.03003): x_t = (1 - t) noise + t data; the network learns data - noise.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vtp_core import load


class LatentDit(nn.Module):
    """Velocities (B, d, h, w) of noisy latents, times (B,) and labels (B,), -1 where there is none."""

    def __init__(self, shape: tuple[int, int, int], labels: int, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(shape[0], width), nn.Linear(width, shape[0])
        nn.init.zeros_(self.leave.weight)
        self.place = nn.Parameter(0.02 * torch.randn(shape[1] * shape[2], width))
        self.label, self.time = nn.Embedding(labels + 1, width), nn.Linear(64, width)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)

    def forward(self, noisy: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Clean latents minus noise, (B, d, h, w)."""
        angles = time[:, None] * torch.logspace(0, 3, 32)
        condition = self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.label(label + 1)
        tokens = self.enter(noisy.flatten(2).mT) + self.place + condition[:, None]
        return self.leave(self.blocks(tokens)).mT.reshape(noisy.shape)


def main(latents: str, tokenizer: str, output: str, steps: int = 2000, rows: int = 64) -> list[float]:
    """Trains, writes 16 samples as PNG files, and returns the losses."""
    files = [load_file(path) for path in sorted(Path(latents).glob("*.safetensors"))]
    data = torch.cat([file[name] for file in files for name in ("latents", "latents_flip")])
    labels = torch.cat([file["labels"] for file in files for _ in range(2)])
    config = json.loads(Path(tokenizer, "config.json").read_text())
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    net = LatentDit(data.shape[1:], int(labels.max()) + 1)
    optimizer, losses = torch.optim.AdamW(net.parameters(), 5e-4), []
    for _ in range(steps):
        chosen, time = torch.randint(len(data), (rows,)), torch.randn(rows).sigmoid()
        clean = (data[chosen] - mean) / std
        noise, t = torch.randn_like(clean), time[:, None, None, None]
        loss = (net((1 - t) * noise + t * clean, time, labels[chosen]) - (clean - noise)).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sample, label = torch.randn(16, *data.shape[1:]), labels[torch.randint(len(labels), (16,))]
    with torch.no_grad():
        for step in range(50):
            sample = sample + net(sample, torch.full((16,), step / 50), label) / 50
        model = load(tokenizer)
        images = model.postprocess(model.decode(sample * std + mean).sample)
    Path(output).mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        image.save(Path(output, f"{number:02d}.png"))
    return losses


if __name__ == "__main__":
    print("loss of the last step:", main(*sys.argv[1:4], *map(int, sys.argv[4:]))[-1])
