"""A run's folder begins, or goes on as if nothing had happened, on as many processes as there are now."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from manyview.data.mark import marks_of
from manyview.errors import DamagedError, RunError, warn
from manyview.foundation.distributed import largest
from manyview.foundation.files import read_state
from manyview.foundation.group import as_one, check_alike
from manyview.foundation.words import counted
from manyview.training.networks import note_of
from manyview.training.parts import alone_in
from manyview.training.run import Run
from manyview.training.saving import kept
from manyview.training.setup import Setup
from manyview.training.state import State, read_checkpoint


def begin(run: Run, setup: Setup, resume: bool) -> None:
    """Makes the folder, or checks that it can go on. Raises RunError where it cannot, on all processes."""
    data = json.dumps([setup.splits.classes, marks_of(setup.splits)])
    check_alike({"recipe": setup.recipe.to_yaml(), "data set": data, "--out": str(run.folder.resolve())})
    with as_one():
        if setup.main:
            networks, starts = note_of(setup.step), setup.step.starts
            run.begin(setup.recipe, setup.splits, resume, setup.accelerator.num_processes, networks, starts)
    with as_one():  # once the first has written it
        if not (run.folder / "recipe.yaml").is_file():
            raise RunError(f"{run.folder} is another than the first process sees; put it on a disk that all share")


def take_up(run: Run, setup: Setup, resume: bool) -> State:
    """Brings step and optimiser, which lie on their devices, to where the last checkpoint has them, and says where.

    There, since an optimiser's state follows its parameters, but for what it is better without on a device. A run that
    has no checkpoint yet stands at 0. The folder is told of another number of processes, and so is the user.
    """
    state, train, world = State(), setup.recipe.train, setup.accelerator.num_processes
    if not resume:
        return state
    if kept(run.last):
        state, damaged = _newest_whole(run, setup)
        if state.number > setup.clock.steps:
            raise RunError(
                f"{run.last} says that {state.number:,} updates were made; the run has {setup.clock.steps:,}"
            )
        damaged |= _without_best(run, state) if setup.main else {}  # which alone chooses
        setup.accelerator.wait_for_everyone()  # they all have read the same
        for path, told in damaged.items() if setup.main else ():
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            warn(told)
        if setup.main and not setup.recipe.keeps_best:
            run.best.unlink(missing_ok=True)  # as versions kept it that chose by labels what learnt from none
        setup.display.say(f"resumed at step {state.number} of {setup.clock.steps}")
    if setup.main and (before := run.continue_on(state.number, world)) != world:
        told = f"resumed on {counted(world, 'process')}, begun on {before}"
        if seen := alone_in(setup.step, train.accumulate):
            parts = f"parts of {setup.together} images, until now of {train.batch_size // (before * train.accumulate)}"
            warn(f"{told}: {' and '.join(seen)} see{'s' * (len(seen) == 1)} {parts}")
        else:
            setup.display.say(told)
    return state


def _newest_whole(run: Run, setup: Setup) -> tuple[State, dict[Path, str]]:
    """Where the newest checkpoint that is whole stood, to which all is brought; of others what to say."""
    damaged: dict[Path, str] = {}
    for path in kept(run.last):
        state, found = State(), ""
        with as_one():
            try:
                state = read_checkpoint(path, setup.step, setup.optimizer, setup.mesh)
            except DamagedError as error:
                found = str(error)
        if largest(int(bool(found)), setup.accelerator):  # of shards each process reads its own
            damaged[path] = found or f"{path} is damaged, as another process found"
        else:
            return state, {
                each: f"{told}; going on from {path.name}, of step {state.number}" for each, told in damaged.items()
            }
    first, *others = damaged.values()
    also = (
        f", and so {'are' if len(others) > 1 else 'is'} {', '.join(path.name for path in [*damaged][1:])}"
        if others
        else ""
    )
    raise DamagedError(f"{first}{also}; begin anew in another folder, or without {run.last.parent} in this one")


def _without_best(run: Run, state: State) -> dict[Path, str]:
    """Begins to choose anew where the weights that were best are damaged; what to say of them."""
    if not run.best.is_file():
        return {}
    try:
        read_state(run.best)
    except DamagedError as error:
        state.best = [-math.inf, -math.inf]
        return {run.best: f"{error}; the best are chosen among those of step {state.number} and later"}
    return {}
