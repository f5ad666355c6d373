"""A diffusion transformer in plain PyTorch, from files alone: latents, and statistics of `config.json`.

    vtp encode vtp-nano --source samples -o latents/
    vtp export vtp-nano tokenizer/
    python examples/latent_dit.py latents/ tokenizer/ sample 2000

Rectified flow (arXiv 2209.03003): x_t = (1 - t) noise + t data; the network learns data - noise. Writes 16
images, `sample00.png` to `sample15.png`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vtp_core import load


class LatentDit(nn.Module):
    """Velocities (B, d, h, w) of noisy latents at times (B, 1, 1, 1)."""

    def __init__(self, channels: int, tokens: int, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(channels, width), nn.Linear(width, channels)
        self.place, self.time = nn.Parameter(0.02 * torch.randn(tokens, width)), nn.Linear(64, width)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Clean latents minus noise, (B, d, h, w)."""
        waves = torch.sin(time.flatten(1) * torch.logspace(0, 3, 64))
        tokens = self.enter(noisy.flatten(2).mT) + self.place + self.time(waves)[:, None]
        return self.leave(self.blocks(tokens)).mT.reshape(noisy.shape)


latents, tokenizer, output, steps = sys.argv[1:]
config = json.loads(Path(tokenizer, "config.json").read_text())
mean, std = (torch.tensor(config[name])[:, None, None] for name in ("latents_mean", "latents_std"))
files = [load_file(path) for path in sorted(Path(latents).glob("*.safetensors"))]
data = (torch.cat([file[name] for file in files for name in ("latents", "latents_flip")]) - mean) / std
net = LatentDit(data.shape[1], data[0, 0].numel())
optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
for _ in range(int(steps)):
    clean, time = data[torch.randint(len(data), (32,))], torch.randn(32, 1, 1, 1).sigmoid()
    noise = torch.randn_like(clean)
    loss = (net(noise.lerp(clean, time), time) - (clean - noise)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
sample = torch.randn(16, *data.shape[1:])
with torch.no_grad():
    for step in range(50):
        sample = sample + net(sample, torch.full((16, 1, 1, 1), step / 50)) / 50
    model = load(tokenizer)
    images = model.postprocess(model.decode(sample * std + mean).sample)
for number, image in enumerate(images):
    image.save(f"{output}{number:02d}.png")
