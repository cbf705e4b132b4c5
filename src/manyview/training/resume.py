"""A run's folder begins, or goes on as if nothing had happened, on as many processes as there are now."""

from __future__ import annotations

from manyview.errors import warn
from manyview.training.networks import note_of
from manyview.training.run import Run
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
    if run.last.is_file():
        state = read_checkpoint(run.last, setup.step, setup.optimizer)
        if setup.main and not setup.recipe.keeps_best:
            run.best.unlink(missing_ok=True)  # as versions kept it that chose by labels what learnt from none
        setup.display.say(f"resumed at step {state.number} of {setup.clock.steps}")
    if setup.main and (before := run.continue_on(state.number, world)) != world:
        parts = f"of {setup.together} images, until now of {train.batch_size // (before * train.accumulate)}"
        told = f"resumed on {world} processes, begun on {before}: BatchNorm and mixing see parts {parts}"
        warn(told)
    return state
