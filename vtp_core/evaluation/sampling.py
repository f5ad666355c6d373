"""How generated samples are made, as protocols state and demand it. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

Sampling = Mapping[str, Any]
"""Settings of a generator that act on its samples, by key, as `vtp_core.generator.Generator.describe` gives
them. Where a protocol demands them, a tuple lists the values that it allows."""


def sampling_text(sampling: Sampling | None) -> str:
    """The settings as protocols state them; None: the generator states none."""
    if sampling is None:
        return "sampler's settings not stated"
    return f"sampled with {_listed(sampling)}" if sampling else "the sampler has no settings"


def departures(demanded: Sampling, sampling: Sampling | None) -> dict[str, Any]:
    """The demanded settings that are not in effect -> what is, or None where there is no such setting."""
    found = {key: None if sampling is None else sampling.get(key) for key in demanded}
    return {key: value for key, value in found.items() if not _allowed(demanded[key], value)}


def sampling_mark(demanded: Sampling, sampling: Sampling | None) -> str:
    """What the name of a number gets whose samples were made in another way; empty: they were not."""
    different = departures(demanded, sampling)
    if not different:
        return ""
    if sampling is None:
        return "-SAMPLING-NOT-STATED"
    return "-SAMPLED-WITH-" + "-".join(f"{key}-{_shown(value)}" for key, value in different.items())


def sampling_problem(name: str, demanded: Sampling, sampling: Sampling | None) -> str | None:
    """How samples differ from what the protocol `name` demands, and what to do; None if they don't."""
    different = departures(demanded, sampling)
    if not different:
        return None
    wanted = {key: demanded[key] for key in different}
    forced = "force = true measures all the same and marks the number"
    if sampling is None:
        return f"{name} is sampled with {_listed(wanted)}, and this generator states no settings; {forced}"
    chosen = {key: value[0] if isinstance(value, tuple) else value for key, value in wanted.items()}
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in chosen.items())
    flags = " ".join(f"-s {key}={_shown(value)}" for key, value in chosen.items())
    return (
        f"{name} is sampled with {_listed(wanted)}, and this generator with {_listed(different)}; "
        f"set settings = {{ {table} }}, or {flags} of vtp eval; {forced}"
    )


def _allowed(demanded: Any, value: Any) -> bool:
    if isinstance(demanded, tuple):
        return any(_allowed(each, value) for each in demanded)
    if isinstance(demanded, float | int) and isinstance(value, float | int):
        return math.isclose(demanded, value, rel_tol=1e-9)
    return bool(demanded == value)


def _listed(sampling: Sampling) -> str:
    return ", ".join(f"{key}={_shown(value)}" for key, value in sampling.items())


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " or ".join(map(_shown, value))
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:.12g}"
    return "none" if value is None else str(value)
