"""How much wider an interval is if its standard error comes from few samples."""

from __future__ import annotations

NORMAL = 1.959964
"""0.975 quantile of a standard normal variable."""


def widening(degrees: int) -> float:
    """0.975 quantile of Student's distribution over that of the normal one, above 1.

    Args:
        degrees: Degrees of freedom; 0 counts as 1.

    Returns:
        Cornish and Fisher's expansion in 1 / `degrees`, to 1 % from three degrees on.
    """
    z, degrees = NORMAL, max(degrees, 1)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return 1 + sum(term / float(degrees) ** power for power, term in enumerate(terms, 1)) / z
