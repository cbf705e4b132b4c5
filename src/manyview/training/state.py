"""Where a run stands, and the checkpoint that holds it with the step's and the optimiser's state: written and read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from manyview.errors import RunError
from manyview.foundation.files import read_state
from manyview.foundation.put_shards import put_shards
from manyview.step import Step
from manyview.training.sharding import share_out


@dataclass
class State:
    """All that goes on from one update to the next and is neither the step's nor the optimiser's.

    number: updates done. best: the score of the weights that were kept, and of equals the negative loss. low: logged
    steps in a row that looked like a collapse. skipped: images that could not be read, one line each. seconds: of
    training, evaluation left out; waited: those of them spent waiting for data. untrained: split -> measures before
    the first update.
    """

    number: int = 0
    best: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])
    low: int = 0
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0
    untrained: dict[str, dict[str, float]] = field(default_factory=dict)

    def skip(self, lines: list[str]) -> None:
        """Adds images that could not be read, each once, in order."""
        self.skipped = sorted({*self.skipped, *lines})


def checkpoint_of(path: Path, step: Step, optimizer: torch.optim.Optimizer, state: State) -> dict[str, Any]:
    """All that a run needs to go on as if nothing had happened; what is shared out is written beside `path` already.

    All processes must call it. Raises RunError where it cannot be written.
    """
    found = {"step": step.state_dict(), "optimizer": optimizer.state_dict(), "run": asdict(state)}
    return put_shards(path, found, state.number)


def read_checkpoint(path: Path, step: Step, optimizer: torch.optim.Optimizer, mesh: Any = None) -> State:
    """Brings the step and the optimiser to where they were; returns where the run stood.

    mesh: of the processes that they are shared out over, in however many parts they were written. Raises DamagedError
    for a file that is damaged, and RunError where it holds what this version does not know of a run, or something else.
    """
    saved = read_state(path, mesh)
    parts = ("step", "optimizer", "run")
    if not isinstance(saved, dict) or not all(isinstance(saved.get(part), dict) for part in parts):
        raise RunError(f"{path} is no checkpoint that a run can go on from; begin anew, with it as init= of a backbone")
    unknown = saved["run"].keys() - {each.name for each in fields(State)}
    if unknown:
        told = f"is of a later manyview, which also keeps {', '.join(sorted(unknown))}; resume with that"
        raise RunError(f"{path} {told}")
    try:
        state = TypeAdapter(State).validate_python(saved["run"])
    except ValidationError as error:
        first = error.errors()[0]
        raise RunError(
            f"{path} says what cannot be of a run: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None
    try:
        if mesh is not None:
            share_out(saved, step, optimizer, mesh)
        step.load_state_dict(saved["step"])
        optimizer.load_state_dict(saved["optimizer"])
    except Exception as error:  # each optimiser takes its own state in its own way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise RunError(f"{path} does not fit the run's recipe: {lines[-1][:200]}") from None
    return state
