"""The published configuration class: a ``config.json`` read, checked and written. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

import vtp_core
from vtp_core.artefact.config import EXPORTED_BY, ArtefactConfig, read_json
from vtp_core.config import first_problem
from vtp_core.errors import CheckpointError, UsageError
from vtp_plugins.vtp.options import OPTIONS, PublishedConfig, RopeDtype
from vtp_plugins.vtp.statistics import STATISTICS, statistics_of


class VTPConfig(PublishedConfig, ArtefactConfig):
    """The published configuration, and with it the artefact's: the component tables follow from its keys.

    Attributes of the artefact such as `encoder` and `heads` can't be given; latent statistics can.
    """

    vtp_version: str = vtp_core.__version__
    """Version of vtp-core that read it."""
    encoder: dict[str, Any] = {}
    """Follows from the published keys, as do the next two and `heads`."""
    bottleneck: dict[str, Any] = {}
    """As `encoder`."""
    decoder: dict[str, Any] | None = None
    """As `encoder`; None without `train_reconstruction`."""
    kept: dict[str, Any] = {}
    """Other keys of the ``config.json``, written back as they were."""

    @model_validator(mode="before")
    @classmethod
    def _fill_tables(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = {key: value for key, value in values.items() if key in PublishedConfig.model_fields}
        tables = PublishedConfig.model_validate(given).tables()
        if mine := sorted(tables.keys() & values.keys()):
            raise ValueError(f"{mine[0]} follows from the published keys and can't be given")
        return {**values, **tables}

    @model_validator(mode="after")
    def _one_statistic_a_channel(self) -> Self:
        if self.latents_mean is not None and len(self.latents_mean) != self.channels:
            raise ValueError(
                f"latents_mean has {len(self.latents_mean)} values, the latent {self.channels} channels"
            )
        return self

    def with_rope_dtype(self, rope_dtype: RopeDtype) -> Self:
        """The same model with rotary positions of that dtype."""
        changed = self.model_copy(update={"rope_dtype": rope_dtype})
        tables = changed.tables()
        return changed.model_copy(update={part: tables[part] for part in ("encoder", "decoder")})

    @classmethod
    def from_json_file(cls, file: str | Path) -> Self:
        """Reads a published ``config.json``.

        Raises:
            CheckpointError: Missing, damaged, of another model, or with an option that this reader doesn't
                know.
        """
        path = Path(file)
        raw = read_json(path)
        if raw.get("model_type", "vtp") != "vtp":
            raise CheckpointError(f"{path}: model_type is {raw['model_type']!r}, expected 'vtp'")
        given = {key: value for key, value in raw.items() if key in PublishedConfig.model_fields}
        kept = {key: value for key, value in raw.items() if key not in {*given, *STATISTICS}}
        if unknown := sorted(key for key in kept if key.startswith(OPTIONS)):
            raise CheckpointError(
                f"{path}: {unknown[0]} is an option that this version doesn't know; upgrade vtp-core"
            )
        try:
            numbers = statistics_of(raw, PublishedConfig.model_validate(given))
            return cls(**given, **numbers, kept=kept)
        except ValidationError as error:
            raise CheckpointError(f"{path}: {first_problem(error)}") from error

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The configuration in a model folder."""
        return cls.from_json_file(Path(folder) / "config.json")

    def published(self, dtype: str) -> str:
        """The text of a published ``config.json`` for weights of that dtype."""
        options = {name: getattr(self, name) for name in PublishedConfig.model_fields}
        if self.rope_dtype == "bfloat16":
            del options["rope_dtype"]
        names = {
            "architectures": ["VTPModel"],
            "model_type": "vtp",
            "dtype": dtype,
            EXPORTED_BY: vtp_core.__version__,
        }
        options |= {name: getattr(self, name) for name in STATISTICS}
        kept = {key: value for key, value in self.kept.items() if key != "torch_dtype"}
        return json.dumps({**kept, **names, **options}, indent=2, sort_keys=True) + "\n"

    def dump(self) -> str:
        """The text of our own artefact's ``config.json``.

        Raises:
            UsageError: An option that only the published layout holds.
        """
        what = "text_pool_type = 'none'" if self.text_pool_type == "none" else "init_logit_bias"
        if self.train_clip and (self.text_pool_type == "none" or self.init_logit_bias is not None):
            raise UsageError(
                f"save: {what} has no place in our artefact; use save_pretrained or `vtp export --format vtp`"
            )
        own = {name: getattr(self, name) for name in ArtefactConfig.model_fields}
        return ArtefactConfig(**own).dump()
