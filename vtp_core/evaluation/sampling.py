"""How generated samples are made, as protocols state and demand it. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from vtp_core.errors import UsageError

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


def sampling_problem(
    name: str,
    demanded: Sampling,
    sampling: Sampling | None,
    changed: Callable[[Sampling], Sampling | None],
) -> str | None:
    """How samples differ from what a protocol demands, and what to do; None if they don't.

    Args:
        name: The protocol's.
        demanded: Its settings.
        sampling: Those in effect; None: the generator states none.
        changed: Those in effect after changes by key; raises a UsageError where it can't follow them.
    """
    different = departures(demanded, sampling)
    if not different:
        return None
    wanted = {key: demanded[key] for key in different}
    forced = "force = true measures all the same and marks the number"
    if sampling is None:
        return f"{name} is sampled with {_listed(wanted)}, and this generator states no settings; {forced}"
    chosen = {key: value[0] if isinstance(value, tuple) else value for key, value in wanted.items()}
    return (
        f"{name} is sampled with {_listed(wanted)}, and this generator with {_listed(different)}; "
        f"{_advice(demanded, chosen, changed)}; {forced}"
    )


def _advice(demanded: Sampling, chosen: Sampling, changed: Callable[[Sampling], Sampling | None]) -> str:
    """How to set what is demanded, or why that can't be."""
    try:
        lacking = departures(demanded, changed(chosen))
    except UsageError as error:
        return f"it can't be set so ({error})"
    if lacking:
        return f"it has no {', '.join(lacking)}"
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in chosen.items())
    flags = " ".join(f"-s {key}={_shown(value)}" for key, value in chosen.items())
    return f"set settings = {{ {table} }}, or {flags} of vtp eval"


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
