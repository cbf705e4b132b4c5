"""Many recipes against one reference: the more there are, the surer one of them is ahead by chance.

One measure is primary, named before the runs; for it each recipe is tested, and Holm's procedure (Scandinavian Journal
of Statistics, 1979) adjusts the p-values over all recipes, those that failed included: the chance of one false "unlike
the reference" among them is at most 5 %, however the tests depend on each other, as they do through the common
reference. Dunnett's test would use that dependence, and asks for equal variances, which paired runs do not promise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def t_test(values: NDArray[np.float64]) -> float | None:
    """The two-sided p-value of Student's test that the mean of values [n] is 0; None of equal ones, and of one."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or values.std(ddof=1) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return None
    from scipy.special import stdtr

    t = float(values.mean()) / (float(values.std(ddof=1)) / math.sqrt(len(values)))
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def holm(p: Mapping[str, float | None], family: int | None = None) -> dict[str, float | None]:
    """Adjusted p-values, by name; what has none stays without.

    family: how many were tested in all, at least as many as have a p-value; by default as many as there are names, for
    what could not be tested counts, too, as if it had been the least likely to be unlike.
    """
    known = sorted((value, name) for name, value in p.items() if value is not None)
    tested = len(p) if family is None else family
    if tested < len(known):
        raise ValueError(f"family is at least {len(known)}, got {tested}")
    adjusted: dict[str, float | None] = dict.fromkeys(p)
    least = 0.0
    for place, (value, name) in enumerate(known):
        least = max(least, min(1.0, (tested - place) * value))
        adjusted[name] = least
    return adjusted


def detectable(sd: float, n: int, level: float = 0.05, power: float = 0.8) -> float | None:
    """The true mean of n paired differences of that standard deviation which a t test finds with this power.

    level: two-sided, already divided by the number of tests where it is corrected. None of fewer than 2, and where it
    cannot be computed, as of two differences at a level of 1e-5.
    """
    if n < 2:
        return None
    from scipy.optimize import brentq
    from scipy.special import nctdtr, stdtrit

    critical, df = float(stdtrit(n - 1, 1 - level / 2)), n - 1

    def missing(shift: float) -> float:
        return float(1 - nctdtr(df, shift, critical)) - power  # the other tail is next to nothing

    enough = critical + 10  # of two or three differences at a strict level more
    while missing(enough) < 0:
        enough *= 2
    if math.isnan(missing(enough)):
        return None
    return float(brentq(missing, 0.0, enough)) * sd / math.sqrt(n)
