"""A tokenizer in transformers: importing this package registers it with transformers' Auto classes.

    import vtp_plugins.transformers
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained("exported/")             # of `vtp export --format transformers`
    processor = AutoImageProcessor.from_pretrained("exported/")
    latents = model.encode(**processor(images, return_tensors="pt")).latent

Needs the extra ``transformers``. `vtp_core` and the plugins don't import this package.
"""

from __future__ import annotations

from vtp_core.errors import UsageError

try:
    import transformers
except ModuleNotFoundError:
    raise UsageError(
        "vtp_plugins.transformers needs transformers: pip install 'vtp-core[transformers]'"
    ) from None

from vtp_plugins.transformers.configuration import VtpTokenizerConfig
from vtp_plugins.transformers.image_processor import VtpImageProcessor
from vtp_plugins.transformers.model import VtpTokenizerModel, VtpTokenizerOutput
from vtp_plugins.transformers.text_tokenizer import VtpTextTokenizer

__all__ = [
    "VtpImageProcessor",
    "VtpTextTokenizer",
    "VtpTokenizerConfig",
    "VtpTokenizerModel",
    "VtpTokenizerOutput",
]

transformers.AutoConfig.register(VtpTokenizerConfig.model_type, VtpTokenizerConfig)
transformers.AutoModel.register(VtpTokenizerConfig, VtpTokenizerModel)
transformers.AutoImageProcessor.register(
    VtpTokenizerConfig, image_processor_classes={"pil": VtpImageProcessor, "torchvision": VtpImageProcessor}
)
transformers.AutoTokenizer.register(VtpTokenizerConfig, tokenizer_class=VtpTextTokenizer)
