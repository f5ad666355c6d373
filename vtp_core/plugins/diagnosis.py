"""What plugins add to ``vtp doctor``: facts about this machine, and problems. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vtp_core.plugins.component import Component, one_line
from vtp_core.plugins.isolation import isolated


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a plugin reports about itself on this machine.

    Attributes:
        facts: Title -> lines of text.
        problems: One line for each thing that keeps the plugin from working, with the next step.
    """

    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    problems: Sequence[str] = ()


def diagnose(component: Component) -> Diagnosis:
    """Calls the function of a component of kind "diagnostic".

    Raises:
        BrokenComponent: It can't be imported, raised an error or returned something else.
    """
    target = component.load_target()
    try:
        with isolated(component.watched_as):
            found = target()
    except KeyboardInterrupt:  # the user's
        raise
    except BaseException as error:
        raise component.broken(f"failed: {one_line(error)}") from error
    if not isinstance(found, Diagnosis):
        raise component.broken(f"returned {type(found).__name__}, not a vtp_core.plugins.Diagnosis")
    return Diagnosis(
        facts={str(title): [str(line) for line in lines] for title, lines in found.facts.items()},
        problems=[str(problem) for problem in found.problems],
    )
