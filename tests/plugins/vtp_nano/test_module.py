"""The shipped tokenizer is a module as any other, and torch's default compiler takes it."""

from __future__ import annotations

import pytest
import torch

from vtp_core import load
from vtp_core.testing import check_tokenizer


@pytest.mark.slow
def test_tokenizer() -> None:
    check_tokenizer(load("vtp-nano"))


@pytest.mark.slow
@torch.no_grad()
def test_generated_code_gives_the_same() -> None:
    tokenizer = load("vtp-nano")
    pixels = tokenizer.preprocess(torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0)))
    latent = tokenizer.encode(pixels).latent
    image = tokenizer.decode(latent).sample
    found = torch.compile(tokenizer.encode)(pixels).latent
    torch.testing.assert_close(found, latent, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.compile(tokenizer.decode)(latent).sample, image, atol=1e-4, rtol=1e-4)
