"""A tokenizer as a model of transformers.

Shapes: B images, d latent channels, h x w positions, N tokens of width D, T ids a caption, E embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, cached_file

from vtp_core.artefact.assembly import assemble
from vtp_core.encoded import Decoded, Encoded
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import check_weights
from vtp_plugins.transformers.configuration import VtpTokenizerConfig
from vtp_plugins.transformers_format.reader import WEIGHTS, artefact_of, read_weights_of

_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PASSED_BY_AUTO = ("_from_auto", "adapter_kwargs", "trust_remote_code", "use_safetensors")


@dataclass
class VtpTokenizerOutput(ModelOutput):
    """Result of `VtpTokenizerModel.forward`; None is what was not asked for or the tokenizer lacks.

    Attributes:
        last_hidden_state: Tokens (B, N, D), the class token first if there is one.
        pooler_output: The class token, or the mean of the tokens, (B, D).
        latent: (B, d, h, w).
        image_embeds: Unit vectors (B, E).
        text_embeds: Unit vectors (B, E) of the captions.
        logits_per_image: Scores of images against captions, (B images, B captions).
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    latent: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_image: Tensor | None = None


class VtpTokenizerModel(PreTrainedModel):
    """A tokenizer as `AutoModel` gives it.

    Args:
        config: Has the artefact's config, of which the networks are built with fresh weights.
        networks: Networks that are there already.

    Attributes:
        model: The `vtp_core.Tokenizer`.
    """

    config_class = VtpTokenizerConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    config: VtpTokenizerConfig

    def __init__(self, config: VtpTokenizerConfig, networks: Tokenizer | None = None) -> None:
        super().__init__(config)
        if networks is None:
            networks = assemble(artefact_of(config.to_dict(), Path(config.name_or_path)), load_plugins())
        self.model = networks.requires_grad_(True)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *_: Any,
        config: VtpTokenizerConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | int | torch.device | None = None,
        **settings: Any,
    ) -> Self:
        """The model of a folder or of a repository of the Hub, in evaluation mode.

        Weights come from ``model.safetensors`` alone and must be exactly the model's.

        Args:
            pretrained_model_name_or_path: Folder or repository.
            config: Its configuration; None: read from there.
            dtype: Floating type of the weights; None or ``"auto"``: as stored, in float32.
            device_map: One device; None: the CPU.
            settings: Those of the Hub, such as ``revision`` and ``token``.

        Raises:
            CheckpointError: Damaged weights, or those of another model.
            UsageError: A setting that is not supported.
        """
        hub = {name: settings.pop(name) for name in _HUB if name in settings}
        for name in _PASSED_BY_AUTO:
            settings.pop(name, None)
        dtype = settings.pop("torch_dtype", None) if dtype is None else dtype
        with_info = settings.pop("output_loading_info", False)
        if unknown := [name for name, value in settings.items() if value is not None] or (
            ["output_loading_info"] if with_info else []
        ):
            raise UsageError(f"{cls.__name__}.from_pretrained: {unknown[0]} is not supported; leave it out")
        where = str(pretrained_model_name_or_path)
        if config is None:
            config = VtpTokenizerConfig.from_pretrained(where, **hub)
        if (path := cached_file(where, WEIGHTS, **hub)) is None:
            raise CheckpointError(f"{where}: has no {WEIGHTS}; export it again")
        networks = read_weights_of(artefact_of(config.to_dict(), Path(where)), Path(path))
        check_weights(where, networks)
        model = cls(config, networks)
        kind = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
        if kind is None and dtype is not None:
            raise UsageError(f"{cls.__name__}.from_pretrained: dtype {dtype!r} is none of torch's")
        if isinstance(kind, torch.dtype):
            model.to(kind)
            config.dtype = kind
        if device_map in ("auto", "balanced", "sequential") or isinstance(device_map, dict):
            raise UsageError(
                f"{cls.__name__}.from_pretrained: device_map must be one device; use .to(device)"
            )
        if device_map is not None:
            model.to(torch.device(device_map))
        return model.eval()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> VtpTokenizerOutput | tuple[Tensor, ...]:
        """Tokens, latent and embeddings of images, embeddings of captions, or both and their scores.

        Args:
            pixel_values: (B, 3, H, W), as the image processor returns them.
            input_ids: (B, T), as the text tokenizer returns them.
            attention_mask: Not used: the end of a caption is in its ids.
            return_dict: False returns a tuple; None: as the configuration says.
        """
        output = VtpTokenizerOutput()
        if pixel_values is not None:
            head = self.model.exports["embed_image"] if "embed_image" in self.model.exports else None
            layers = {*self.model.bottleneck.layers, *getattr(head, "layers", ())}
            features = self.model.features(pixel_values, sorted(layers))
            tokens = features["global"]
            patches, cls = tokens.patches[:, 0], None if tokens.cls is None else tokens.cls[:, 0]
            output["last_hidden_state"] = patches if cls is None else torch.cat((cls[:, None], patches), 1)
            output["pooler_output"] = patches.mean(1) if cls is None else cls
            output["latent"] = self.model.encode_features(features).latent
            if head is not None:
                output["image_embeds"] = self.model.embed_features(features)
        if input_ids is not None:
            output["text_embeds"] = self.get_text_features(input_ids)
        scale = self.model.exports["logit_scale"] if "logit_scale" in self.model.exports else None
        if output.image_embeds is not None and output.text_embeds is not None and scale is not None:
            images, texts = output.image_embeds, output.text_embeds
            output["logits_per_image"] = scale.get_parameter("logit_scale").exp() * images @ texts.T
        wanted = self.config.return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()

    def encode(self, pixel_values: Tensor) -> Encoded:
        """``latent`` (B, d, h, w), ``latent_dist`` and ``indices`` of images."""
        return self.model.encode(pixel_values)

    def decode(self, latent: Tensor) -> Decoded:
        """``sample`` (B, 3, H, W), ImageNet-normalised, of a latent (B, d, h, w)."""
        return self.model.decode(latent)

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> Tensor:
        """Unit vectors (B, E) of images."""
        return self.model.embed_image(pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
        """Unit vectors (B, E) of token ids (B, T)."""
        if "embed_text" not in self.model.exports:
            raise UsageError("get_text_features: this tokenizer has no text tower")
        embeds: Tensor = self.model.exports["embed_text"](input_ids)
        return embeds

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the networks draw their initial values themselves."""
