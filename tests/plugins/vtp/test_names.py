"""The published quick start with its two import lines changed, and the published names in detail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision  # noqa: F401  (imported here, as its first import warns)
from PIL import Image
from torchvision import transforms

from tests.plugins.vtp.making import SMALL, draw, write
from vtp_core import load
from vtp_core.errors import UsageError
from vtp_plugins.vtp import VTPConfig, VTPModel, get_tokenizer

BPE = {**SMALL, "text_vocab_size": 49408, "vision_depth": 4, "text_context_length": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("VTP-Tiny-f16d6"), BPE, draw(BPE))


@torch.no_grad()
def test_the_quick_start(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), (200, 80, 20)).save(tmp_path / "dog.png")
    model = VTPModel.from_pretrained(str(folder))
    model.eval()

    def count(m: torch.nn.Module) -> int:
        return sum(p.numel() for p in m.parameters())

    assert count(model.trunk) > 0 and count(model.pixel_decoder) > 0 and count(model.text_transformer) > 0
    preprocess = transforms.Compose(
        [
            transforms.Resize((256, 256)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    image = preprocess(Image.open(tmp_path / "dog.png")).unsqueeze(0)
    with torch.autocast("cpu"):
        latents = model.get_reconstruction_latents(image)
        recon = model.get_latents_decoded_images(latents)
    assert latents.shape == (1, 6, 16, 16) and recon.shape == (1, 3, 256, 256)
    tokenizer = get_tokenizer("ViT-B-32", context_length=model.config.text_context_length)
    text = tokenizer(["a diagram", "a dog", "a cat", "a person"])
    with torch.autocast("cpu"):
        image_features = model.get_clip_image_feature(image, normalize=True)
        text_features = model.get_clip_text_feature(text, normalize=True)
        probabilities = (100.0 * image_features @ text_features.T).softmax(dim=-1)
    assert probabilities.shape == (1, 4) and probabilities.sum().item() == pytest.approx(1, abs=0.02)
    with torch.autocast("cpu"):
        features = model.get_last_layer_feature(image)
        intermediate = model.get_intermediate_layers_feature(image, n=4, return_class_token=True)
    assert features["cls_token"].shape == (1, 24) and features["patch_tokens"].shape == (1, 256, 24)
    for i in range(1, 5):
        assert intermediate[-i][0].shape == (1, 256, 24) and intermediate[-i][1].shape == (1, 24)


def test_our_names_say_the_same(folder: Path) -> None:
    model = VTPModel.from_pretrained(folder)
    pixels = model.preprocess(Image.new("RGB", (50, 40), (10, 200, 60)))
    assert pixels.shape == (1, 3, 32, 32)
    latents = model.encode(pixels).latent
    assert torch.equal(latents, model.get_reconstruction_latents(pixels))
    assert torch.equal(model.decode(latents).sample, model.get_latents_decoded_images(latents))
    assert torch.equal(model.embed_image(pixels), model.get_clip_image_feature(pixels))
    ids = get_tokenizer(context_length=16)(["a red ring"])
    torch.testing.assert_close(model.embed_text(["a red ring"]), model.get_clip_text_feature(ids))
    heads = {"embed_image", "embed_text", "logit_scale"}
    assert model.capabilities == {"encode", "decode", "class_tokens", *heads}
    assert len(model.text_transformer) == 2


def test_intermediate_layers(folder: Path) -> None:
    model = VTPModel.from_pretrained(folder)
    image = torch.randn(2, 3, 32, 48)
    last = model.get_last_layer_feature(image)
    patches, cls = model.get_intermediate_layers_feature(image, return_class_token=True)[0]
    torch.testing.assert_close(patches, last["patch_tokens"])
    torch.testing.assert_close(cls, last["cls_token"])
    chosen = model.get_intermediate_layers_feature(image, n=[1, 3], reshape=True)
    assert [entry.shape for entry in chosen] == [(2, 24, 2, 3)] * 2
    torch.testing.assert_close(chosen[1].flatten(2).transpose(1, 2), patches)
    for bad in (5, 0, -1, [4], [-1], []):
        with pytest.raises(UsageError, match="encoder has 4 blocks"):
            model.get_intermediate_layers_feature(image, n=bad)


def test_what_a_model_lacks_is_said() -> None:
    alone = {**SMALL, "train_clip": False, "train_reconstruction": False}
    del alone["model_type"]
    model = VTPModel(VTPConfig(**alone)).eval()
    image = torch.randn(1, 3, 16, 16)
    assert model.pixel_decoder is None and model.text_transformer is None and model.logit_bias is None
    for call, message in (
        (lambda: model.get_clip_image_feature(image), "embed_image"),
        (lambda: model.get_clip_text_feature(torch.zeros(1, 7, dtype=torch.int64)), "embed_text"),
        (lambda: model.get_latents_decoded_images(torch.zeros(1, 6, 1, 1)), "no decoder"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_a_text_alone_is_a_batch_of_one(folder: Path) -> None:
    tokenize = get_tokenizer("ViT-B-32", context_length=7)
    assert tokenize("a dog").shape == (1, 7)
    assert torch.equal(tokenize("a dog"), tokenize(["a dog"]))
    model = load(folder)
    assert torch.equal(model.embed_text("a dog"), model.embed_text(["a dog"]))


def test_captions_need_the_context_s_length(folder: Path) -> None:
    model = VTPModel.from_pretrained(folder)
    with pytest.raises(UsageError, match=r"\(B, 16\).*context_length=16"):
        model.get_clip_text_feature(torch.zeros(2, 77, dtype=torch.int64))


def test_ids_beyond_the_vocabulary_are_an_error_that_says_so() -> None:
    model = VTPModel(VTPConfig(**{key: value for key, value in SMALL.items() if key != "model_type"})).eval()
    known = model.text.token_embedding.num_embeddings
    for wrong in (known, -1):
        ids = torch.zeros(2, model.config.text_context_length, dtype=torch.int64)
        ids[1, 3] = wrong
        with pytest.raises(UsageError, match=rf"this model has {known} tokens"):
            model.get_clip_text_feature(ids)


def test_tokenizers_other_than_clips_are_refused() -> None:
    assert get_tokenizer()(["a"]).shape == (1, 77)
    for name in ("ViT-B-16-SigLIP", "no-such-model"):
        with pytest.raises(UsageError, match="does not use CLIP's tokenizer"):
            get_tokenizer(name)


def test_a_fresh_model_trains() -> None:
    options: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "model_type"}
    model = VTPModel(
        VTPConfig(
            **options,
        )
    )
    assert model.training and model.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
    image = torch.randn(2, 3, 32, 32)
    loss = model.get_latents_decoded_images(model.get_reconstruction_latents(image)).square().mean()
    loss.backward()
    assert model.trunk.patch_embed.proj.weight.grad.abs().sum() > 0
    assert VTPModel(VTPConfig(**{**options, "init_logit_scale": 1.5})).logit_scale.item() == 1.5


def test_published_sizes_have_the_published_parameters() -> None:
    """Paper and release: S 21.61 M + 21.62 M, B 171.4 M, L 607.1 M; text blocks of the defaults 85.05 M."""
    for width, depth, heads, encoder, decoder in (
        (384, 12, 6, 21.61, 21.62),
        (768, 12, 12, 85.69, 85.71),
        (1024, 24, 16, 303.55, 303.59),
    ):
        sizes = {}
        for part in ("vision", "decoder"):
            sizes |= {f"{part}_embed_dim": width, f"{part}_depth": depth, f"{part}_num_heads": heads}
        with torch.device("meta"):
            model = VTPModel(VTPConfig(**sizes, vision_use_qk_norm=True, decoder_use_qk_norm=True))
        millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.trunk, model.decoder)]
        millions[0] += model.bottleneck.proj.weight.numel() / 1e6
        assert millions == pytest.approx([encoder, decoder], abs=0.015)
    assert sum(p.numel() for p in model.text_transformer.parameters()) / 1e6 == pytest.approx(85.05, abs=0.01)
