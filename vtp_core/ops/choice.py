"""Which implementation of an operator runs: by name, or the first that suits the case at hand.

The recipe's ``[kernels]`` table makes the choice, an object that the modules using the operator hold. This
module has what all operators share; each operator adds its case, the signature of an implementation and a
choice with its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from vtp_core.errors import UsageError
from vtp_core.ops.ranking import Ranking


class KernelCase(Protocol):
    """What the choice of an implementation may depend on; each operator has its own."""

    @property
    def device(self) -> str:
        """Device type, such as ``"cpu"``."""
        ...


CaseT = TypeVar("CaseT", bound=KernelCase)
RunT = TypeVar("RunT")


def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Kernel(Generic[CaseT, RunT]):
    """One implementation of an operator.

    Attributes:
        name: Its name in recipes.
        run: The implementation.
        refuses: Reason why it can't run a case, or None.
        suits: Whether ``auto`` should use it for a case that it can run and that no ranking covers.
        device: Its device type; None: any.
        missing: Reason why it can't run on this machine at all, such as a missing build, or None.
    """

    name: str
    run: RunT
    refuses: Callable[[CaseT], str | None]
    suits: Callable[[CaseT], bool]
    device: str | None = None
    missing: Callable[[], str | None] = _nothing

    def obstacle(self, case: CaseT) -> str | None:
        """Reason why it can't run the case on this machine, or None."""
        if self.device not in (None, case.device):
            return f"needs {self.device} tensors"
        return self.missing() or self.refuses(case)


KernelT = TypeVar("KernelT", bound=Kernel[Any, Any])


@dataclass(frozen=True)
class Choice(Generic[KernelT]):
    """Implementations in order of preference: one if the recipe named it, else all for ``auto``.

    Attributes:
        kernels: The implementations.
        ranking: The order measured on a device; it decides on the cases that it covers.
        operator: Name of the operator, as in ``[kernels]``.
        case: Its class of cases.
    """

    kernels: tuple[KernelT, ...]
    ranking: Ranking | None = None
    operator: ClassVar[str]
    case: ClassVar[type]

    @classmethod
    def named(cls, name: str, kernels: Sequence[KernelT], ranking: Ranking | None = None) -> Self:
        """The choice that a recipe makes by name.

        Args:
            name: ``"auto"`` or the name of one of `kernels`.
            kernels: All implementations, in order of preference.
            ranking: Measured order, for ``auto``.

        Raises:
            UsageError: There is no such implementation.
        """
        if name == "auto":
            return cls(tuple(kernels), ranking)
        named = tuple(kernel for kernel in kernels if kernel.name == name)
        if not named:
            known = ", ".join(["auto", *(kernel.name for kernel in kernels)])
            raise UsageError(f'[kernels] {cls.operator} = "{name}": unknown; known: {known}')
        return cls(named[:1])

    @classmethod
    def attributes(cls) -> frozenset[str]:
        """Attributes of the operator's cases."""
        return frozenset(field.name for field in fields(cls.case))

    def pick(self, case: KernelCase) -> KernelT:
        """The implementation for a case: the fastest one measured that can run it, else the first that suits.

        Raises:
            UsageError: None can run it; says why for each.
        """
        for name in () if self.ranking is None else self.ranking.names(case):
            for kernel in self.kernels:
                if kernel.name == name and kernel.obstacle(case) is None:
                    return kernel
        reasons = []
        for kernel in self.kernels:
            reason = kernel.obstacle(case)
            if reason is not None:
                reasons.append(f"{kernel.name} {reason}")
            elif len(self.kernels) == 1 or kernel.suits(case):
                return kernel
        why = "; ".join(reasons)
        auto = f'use [kernels] {self.operator} = "auto"'
        raise UsageError(f"{self.operator}: no implementation fits ({why}); {auto}")
