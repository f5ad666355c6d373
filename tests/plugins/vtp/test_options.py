"""Every option of the published config: names, shapes, exact numbers, and the way back."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from tests.plugins.vtp.making import SMALL, draw, inputs, write
from tests.plugins.vtp.published import Published
from vtp_core import load
from vtp_plugins.vtp import VTPModel

pytestmark = pytest.mark.slow

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "mlp": {"vision_ffn_layer": "mlp", "decoder_ffn_layer": "mlp"},
    "mlp ratio of the encoder only": {"vision_ffn_layer": "mlp", "vision_mlp_ratio": 2.5},
    "layernorm": {"vision_norm_layer": "layernorm", "decoder_norm_layer": "rmsnorm"},
    "layernormbf16": {"vision_norm_layer": "layernormbf16", "decoder_norm_layer": "layernormbf16"},
    "LayerScale": {"vision_init_values": 1e-5, "decoder_init_values": 0.1},
    "LayerScale off by zero": {"vision_init_values": 0.0, "decoder_init_values": 0},
    "QK-norm": {"vision_use_qk_norm": True, "decoder_use_qk_norm": True},
    "QK-norm in the decoder": {"decoder_use_qk_norm": True},
    "roundings": {"vision_ffn_layer": "swiglu32", "decoder_ffn_layer": "swiglu64"},
    "wide rounding": {"vision_ffn_layer": "swiglu128", "vision_mlp_ratio": 1.5},
    "pooled": {"vision_clip_feat": "pooled"},
    "bottleneck for all": {"vision_bottleneck_ae_only": False},
    "pooled, bottleneck for all": {"vision_bottleneck_ae_only": False, "vision_clip_feat": "pooled"},
    "no bottleneck": {"vision_feature_bottleneck": 24, "vision_bottleneck_ae_only": False},
    "patch 8 decodes at twice the size": {"vision_patch_size": 8},
    "biased projection": {"text_proj_bias": True},
    "no projection": {"text_proj_type": "none", "text_proj_bias": True},
    "quick GELU": {"text_quick_gelu": True},
    "text LayerScale": {"text_ls_init_value": 0.0},
    "text MLP ratio": {"text_mlp_ratio": 2.7},
    "no causal mask": {"text_no_causal_mask": True},
    "first token": {"text_pool_type": "first", "text_no_causal_mask": True},
    "last token": {"text_pool_type": "last"},
    "no pooling": {"text_pool_type": "none"},
    "class embedding": {"text_embed_cls": True},
    "options without effect": {"text_pad_id": 3, "text_output_tokens": True, "init_logit_scale": 1.5},
    "nonscalar scale": {"nonscalar_logit_scale": True},
    "bias": {"init_logit_bias": -10.0},
    "nonscalar scale and bias": {"init_logit_bias": -10.0, "nonscalar_logit_scale": True},
    "no text": {"train_clip": False},
    "no decoder": {"train_reconstruction": False},
    "encoder alone": {"train_reconstruction": False, "train_clip": False},
    "other sizes": {"decoder_depth": 1, "decoder_num_heads": 4, "vision_num_heads": 3, "vision_depth": 3},
}


def outputs(model: VTPModel, config: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    images, ids = inputs(config)
    images = images.to(dtype)
    found = {"latents": model.get_reconstruction_latents(images)}
    found["last"] = model.get_last_layer_feature(images)["patch_tokens"]
    found["block 0"] = model.get_intermediate_layers_feature(images, n=[0], norm=False)[0]
    if config["train_reconstruction"]:
        found["reconstruction"] = model.get_latents_decoded_images(found["latents"])
    if config["train_clip"]:
        found["image"] = model.get_clip_image_feature(images, normalize=False)
        found["text"] = model.get_clip_text_feature(ids, normalize=False)
        if config["text_pool_type"] != "none":
            found["logits"] = model.get_clip_logits(images, ids)[0]
    return found


def expected(config: dict[str, Any], state: dict[str, Tensor], rope: torch.dtype) -> dict[str, Tensor]:
    images, ids = inputs(config)
    oracle = Published(config, state, rope)
    tokens = oracle.encoder(images)
    found = {"latents": oracle.latents(images), "last": tokens[-1][:, 1:], "block 0": tokens[0][:, 1:]}
    if config["train_reconstruction"]:
        found["reconstruction"] = oracle.decode(found["latents"])
    if config["train_clip"]:
        found["image"], found["text"] = oracle.clip_image(images), oracle.clip_text(ids)
        if config["text_pool_type"] != "none":
            image, text = (x / x.norm(dim=-1, keepdim=True) for x in (found["image"], found["text"]))
            found["logits"] = oracle.state["logit_scale"].exp() * image @ text.T
            found["logits"] = found["logits"] + oracle.state.get("logit_bias", 0.0)
    return found


def check(config: dict[str, Any], folder: Path) -> None:
    """One model: read, compared in float64 and as published, written and read again."""
    state = draw(config)
    write(folder / "given", config, state)
    exact = VTPModel.from_pretrained(folder / "given", rope_dtype="float32", dtype=torch.float64)
    for name, value in expected(config, state, torch.float64).items():
        got = outputs(exact, config, torch.float64)[name]
        # bfloat16 weights aside, only rounding in float64 differs.
        torch.testing.assert_close(got, value, atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")

    model = load(folder / "given")
    assert isinstance(model, VTPModel) and not model.training
    published = outputs(model, config, torch.float32)
    for name, value in expected(config, state, torch.bfloat16).items():
        error = (published[name] - value).norm() / value.norm()
        assert error < 5e-3, f"{name} with bfloat16 positions: {error}"

    model.save_pretrained(folder / "back")
    written = load_file(folder / "back" / "model.safetensors")
    assert written.keys() == state.keys()
    for name, value in state.items():
        assert written[name].dtype == value.dtype and torch.equal(written[name], value), name
    config_back = json.loads((folder / "back" / "config.json").read_text())
    assert {key: config_back[key] for key in config} == config
    again = outputs(load(folder / "back"), config, torch.float32)  # type: ignore[arg-type]
    assert all(torch.equal(again[name], value) for name, value in published.items())


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_an_option_is_exact_and_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    check({**SMALL, **changes}, tmp_path)


FFN = st.sampled_from(["swiglu", "swiglu32", "swiglu64", "swiglu128", "mlp"])
NORM = st.sampled_from(["rmsnorm", "layernorm", "layernormbf16"])
SCALE = st.sampled_from([None, 0.1])


@given(
    st.fixed_dictionaries(
        {
            "vision_ffn_layer": FFN,
            "vision_norm_layer": NORM,
            "vision_init_values": SCALE,
            "vision_use_qk_norm": st.booleans(),
            "vision_mlp_ratio": st.sampled_from([1.0, 2.5, 4.0]),
            "vision_feature_bottleneck": st.sampled_from([1, 6, 24, 30]),
            "vision_bottleneck_ae_only": st.booleans(),
            "vision_clip_feat": st.sampled_from(["cls", "pooled"]),
            "decoder_ffn_layer": FFN,
            "decoder_norm_layer": NORM,
            "decoder_init_values": SCALE,
            "decoder_use_qk_norm": st.booleans(),
            "text_ls_init_value": SCALE,
            "text_embed_cls": st.booleans(),
            "text_no_causal_mask": st.booleans(),
            "text_pool_type": st.sampled_from(["argmax", "first", "last", "none"]),
            "text_proj_type": st.sampled_from(["linear", "none"]),
            "text_proj_bias": st.booleans(),
            "text_quick_gelu": st.booleans(),
            "init_logit_bias": st.sampled_from([None, -3.0]),
            "nonscalar_logit_scale": st.booleans(),
        }
    )
)
@settings(max_examples=8)
def test_options_combine(changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check({**copy.deepcopy(SMALL), **changes}, Path(folder))
