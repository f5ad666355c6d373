"""The generator interface: what an objective exports as ``generate``, with settings of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from vtp_core.config import Table, first_problem
from vtp_core.errors import UsageError


class Generator(nn.Module):
    """Makes latents or their codes from nothing, or from classes.

    Attributes:
        classes: Number of classes that samples can be asked for; 0: none.
        settings: How samples are made where a call does not say otherwise, such as steps and guidance.
    """

    classes: int = 0
    settings: Table

    def generate(
        self,
        indices: Tensor,
        seed: int,
        shape: tuple[int, int, int],
        *,
        classes: Tensor | None = None,
        settings: Table | None = None,
    ) -> Tensor:
        """Latents of samples as a decoder takes them, or codes as the bottleneck decodes them.

        Sample i is a function of (seed, i), of its class and of the settings: not of the rest of the batch.

        Args:
            indices: (B,) int64, on the device of the weights.
            seed: Seed of all samples.
            shape: Latent channels, rows and columns (d, h, w).
            classes: (B,) int64; None: drawn by (seed, i).
            settings: From `with_settings`; None: its own.

        Returns:
            (B, d, h, w), or codes (B, Q, h, w) int64.
        """
        raise NotImplementedError

    def describe(self, shape: tuple[int, int, int], settings: Table | None = None) -> Mapping[str, Any]:
        """The settings that act on samples, by key: what protocols of numbers and sets of samples state.

        Here all of them. Overridden where one has no effect beside others, or stands for another value, such
        as None for one that depends on `shape`. Weights may be on the meta device.

        Args:
            shape: Latent channels, rows and columns (d, h, w).
            settings: From `with_settings`; None: its own.

        Raises:
            UsageError: It can't make samples with them.
        """
        stated: dict[str, Any] = (settings or self.settings).model_dump(mode="json")
        return stated

    def unused(self, settings: Table) -> Mapping[str, str]:
        """Key -> why its value changes no sample, such as ``"with sampler euler"``; here none.

        Args:
            settings: Whole and valid.
        """
        return {}

    def without_effect(self, changes: Mapping[str, Any]) -> dict[str, str]:
        """Those of some changes of the settings that change no sample -> why.

        Raises:
            UsageError: There is no such key, or the value is not valid.
        """
        unused = self.unused(self._changed(changes))
        return {key: unused[key] for key in changes if key in unused}

    def with_settings(self, changes: Mapping[str, Any]) -> Table:
        """The settings with changes by key.

        Raises:
            UsageError: There is no such key, the value is not valid, or a change has no effect on samples.
        """
        for key, why in self.without_effect(changes).items():
            raise UsageError(f"generate: {key} has no effect {why}; leave it out")
        return self._changed(changes)

    def _changed(self, changes: Mapping[str, Any]) -> Table:
        table = type(self.settings)
        if unknown := [key for key in changes if key not in table.model_fields]:
            known = ", ".join(table.model_fields)
            raise UsageError(f"generate: no setting {unknown[0]!r}; there are {known}")
        try:
            return table.model_validate({**self.settings.model_dump(), **changes})
        except ValidationError as error:
            raise UsageError(f"generate: {first_problem(error)}") from error
