"""Settings of the evaluator `dino_probe`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""Those of VTP's release, for a batch of 256."""
_PUBLISHED = ("blocks", "rates", "epochs")


class DinoProbeConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "dino_probe"``."""

    use: Literal["dino_probe"] = "dino_probe"
    """This evaluator."""
    protocol: Literal["probe-dino-v1", "vtp-2512"] = "probe-dino-v1"
    """`probe-dino-v1` selects the head on a tenth of the training set. `vtp-2512` selects head and epoch on
    the held-out set, as VTP's release does, which flatters; its metric has a name of its own."""
    blocks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 4)
    """A head for each: the class tokens of so many last blocks, and the mean patch token."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = RATES
    """A head for each: learning rate at a batch of 256; it is multiplied by `batch` / 256."""
    epochs: Positive = 10
    """Passes over the training set."""
    batch: Positive = 1024
    """Images in a step (VTP's release: 128 on each GPU)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of initial weights and order."""

    @model_validator(mode="after")
    def _published_settings(self) -> "DinoProbeConfig":
        changed = [
            key for key in _PUBLISHED if getattr(self, key) != type(self).model_fields[key].get_default()
        ]
        if self.protocol == "vtp-2512" and changed:
            raise ValueError(f'protocol = "vtp-2512" fixes {changed[0]}; leave the key out')
        return self
