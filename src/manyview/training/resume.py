"""A run's folder begins, or goes on as if nothing had happened, on as many processes as there are now."""

from __future__ import annotations

import math
import os
from pathlib import Path

from manyview.errors import DamagedError, RunError, warn
from manyview.foundation.files import read_state
from manyview.training.networks import note_of
from manyview.training.run import Run
from manyview.training.saving import kept
from manyview.training.setup import Setup
from manyview.training.state import State, read_checkpoint


def take_up(run: Run, setup: Setup, resume: bool) -> State:
    """Makes the folder, or brings step and optimiser to where its last checkpoint has them, and says where it stood.

    A run that has no checkpoint yet stands at 0, and so does one that is finished. The folder is told of another number
    of processes, and so is the user. Raises RunError where the folder cannot be this run's.
    """
    if setup.main:
        networks, starts = note_of(setup.step), setup.step.starts
        run.begin(setup.recipe, setup.splits, resume, setup.accelerator.num_processes, networks, starts)
    setup.accelerator.wait_for_everyone()
    return _at_last_checkpoint(run, setup) if resume and run.finished() is None else State()


def _at_last_checkpoint(run: Run, setup: Setup) -> State:
    state, train, world = State(), setup.recipe.train, setup.accelerator.num_processes
    if kept(run.last):
        state, damaged = _newest_whole(run, setup)
        if state.number > setup.clock.steps:
            raise RunError(
                f"{run.last} says that {state.number:,} updates were made; the run has {setup.clock.steps:,}"
            )
        damaged |= _without_best(run, state)
        setup.accelerator.wait_for_everyone()  # they all have read the same
        for path, told in damaged.items() if setup.main else ():
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            warn(told)
        if setup.main and not setup.recipe.keeps_best:
            run.best.unlink(missing_ok=True)  # as versions kept it that chose by labels what learnt from none
        setup.display.say(f"resumed at step {state.number} of {setup.clock.steps}")
    if setup.main and (before := run.continue_on(state.number, world)) != world:
        parts = f"of {setup.together} images, until now of {train.batch_size // (before * train.accumulate)}"
        told = f"resumed on {world} processes, begun on {before}: BatchNorm and mixing see parts {parts}"
        warn(told)
    return state


def _newest_whole(run: Run, setup: Setup) -> tuple[State, dict[Path, str]]:
    """Where the newest checkpoint that is whole stood, to which all is brought; of others what to say."""
    damaged: dict[Path, str] = {}
    for path in kept(run.last):
        try:
            state = read_checkpoint(path, setup.step, setup.optimizer)
        except DamagedError as error:
            damaged[path] = str(error)
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
