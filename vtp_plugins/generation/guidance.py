"""What classifier-free guidance needs of a generator's training. Imports no torch."""

from __future__ import annotations

from vtp_core.errors import UsageError


def why_no_guidance(classes: int, drop_class: float) -> str | None:
    """Why a generator can't be guided, or None if it can.

    Args:
        classes: Number of classes that it is conditioned on.
        drop_class: Share of training rows whose class was hidden.
    """
    if not classes:
        return "guidance needs classes, and this generator has none"
    if not 0 < drop_class < 1:
        rows = "with" if drop_class else "without"
        return f"guidance needs training rows {rows} a class, and drop_class = {drop_class:g} leaves none"
    return None


def require_guidance(guidance: float, classes: int, drop_class: float) -> None:
    """Refuses to guide samples of a generator that can't be guided.

    Raises:
        UsageError: It says why.
    """
    if guidance != 1 and (reason := why_no_guidance(classes, drop_class)):
        raise UsageError(f"generate: {reason}; generate with guidance 1")


def guidance_conflict(guidance: float, classes: int, drop_class: float) -> dict[str, str]:
    """`ObjectiveConfig.conflicts` of a table whose samples are guided by `sampling.guidance`."""
    reason = None if guidance == 1 else why_no_guidance(classes, drop_class)
    key = "drop_class" if classes else "classes"
    advice = f"set guidance to 1 (none), or change {key}"
    return {} if reason is None else {"sampling.guidance": f"{reason}; {advice}"}
