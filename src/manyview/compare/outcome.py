"""How a run of a comparison ended, here or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manyview.errors import RunError
from manyview.foundation.files import read_json
from manyview.training.run import Run


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with a result, or with the line that says why there is none."""

    result: dict[str, Any] | None
    failure: str | None = None


Outcomes = dict[tuple[str, int], Outcome]


def ended(run: Run) -> Outcome | None:
    """How a run ended before; None while it is not finished.

    A run whose numbers stopped being numbers would do so again, to the bit: it is not tried twice.
    """
    if (result := result_of(run)) is not None:
        return Outcome(result)
    report = run.folder / "failure" / "failure.json"
    if report.is_file():
        try:
            why = str(read_json(report)["message"])
        except (ValueError, KeyError, TypeError):
            why = "it failed, and its report is damaged"
        return Outcome(None, f"{why}; see {report.parent}")
    return None


def result_of(run: Run) -> dict[str, Any] | None:
    """What a run's result.json holds; None while it is not finished. Raises RunError where it has no measures."""
    found = run.finished()
    if found is not None and not ("eval" in found and "eval_split" in found):
        raise RunError(
            f"{run.result} is damaged: it has no measures; without it, the same command measures the run anew"
        )
    return found


def measures_of(result: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What a run's result.json says of a split; what it was only watched by, of val where there was a test split."""
    return result["eval"] if result["eval_split"] == split else result.get("val", {})
