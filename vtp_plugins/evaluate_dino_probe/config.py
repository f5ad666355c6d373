"""Settings of the evaluator `dino_probe`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vtp_core.config import EvaluatorConfig

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""Those of VTP's release, for a batch of 256."""
BATCH, LEAST_BATCH, STEPS_OF_A_PASS = 1024, 16, 125
_PUBLISHED = ("blocks", "rates", "epochs")


class DinoProbeConfig(EvaluatorConfig):
    """A table ``[evaluators.NAME]`` with ``use = "dino_probe"``."""

    protocols = {name: {"protocol": name} for name in ("probe-dino-v1", "vtp-2512")}

    use: Literal["dino_probe"] = "dino_probe"
    """This evaluator."""
    protocol: Literal["probe-dino-v1", "vtp-2512"] = "probe-dino-v1"
    """`probe-dino-v1` selects the head on a tenth of the training set. `vtp-2512` is the probe of VTP's
    release, which selects head and epoch on the held-out set and so flatters; its metric has a name of its
    own."""
    force: bool = False
    """Whether `vtp-2512` measures another number of images than ImageNet's 50,000, and marks the number."""
    views: Positive | None = None
    """Random crops of each training image under `vtp-2512`, whose features are kept in memory: by default one
    for each epoch; another number marks the metric."""
    blocks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 4)
    """A head for each: the class tokens of so many last blocks, and the mean patch token."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = RATES
    """A head for each: learning rate at a batch of 256; it is multiplied by `batch` / 256."""
    epochs: Positive = 10
    """Passes over the training set."""
    batch: Positive | None = None
    """Images in a step; by default 1024 (VTP's release: 128 on each GPU), and of small sets a 125th, but 16
    or more, so that there are steps enough."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of initial weights and order."""

    @model_validator(mode="after")
    def _published_settings(self) -> "DinoProbeConfig":
        defaults = type(self).model_fields
        published = self.protocol == "vtp-2512"
        for key in _PUBLISHED:
            if published and getattr(self, key) != defaults[key].get_default():
                raise ValueError(f'protocol = "vtp-2512" fixes {key}; leave the key out')
        for key in ("force", "views"):
            if not published and getattr(self, key) != defaults[key].get_default():
                raise ValueError(f'{key} is of protocol = "vtp-2512"; leave the key out')
        return self

    @property
    def copies(self) -> int:
        """Rows of features of each training image."""
        return (self.views or self.epochs) if self.protocol == "vtp-2512" else 1

    def batch_of(self, images: int) -> int:
        """Images in a step of a training set of so many."""
        return self.batch or max(LEAST_BATCH, min(BATCH, images // STEPS_OF_A_PASS))
