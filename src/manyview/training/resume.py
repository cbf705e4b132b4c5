"""A run that was interrupted goes on as if nothing had happened, on as many processes as there are now."""

from __future__ import annotations

import warnings

from manyview.errors import ManyviewWarning
from manyview.training.run import Run
from manyview.training.setup import Setup
from manyview.training.state import State, read_checkpoint


def take_up(run: Run, setup: Setup) -> State:
    """Brings step and optimiser to where the run's last checkpoint has them, and says where the run stood.

    A run that has none yet stands at 0. The folder is told of another number of processes, and so is the user.
    """
    state, train, world = State(), setup.recipe.train, setup.accelerator.num_processes
    if run.last.is_file():
        state = read_checkpoint(run.last, setup.step, setup.optimizer)
        if setup.main and not setup.recipe.keeps_best:
            run.best.unlink(missing_ok=True)  # as versions kept it that chose by labels what learnt from none
        setup.display.say(f"resumed at step {state.number} of {setup.clock.steps}")
    if setup.main and (before := run.continue_on(state.number, world)) != world:
        parts = f"of {setup.together} images, until now of {train.batch_size // (before * train.accumulate)}"
        told = f"resumed on {world} processes, begun on {before}: BatchNorm and mixing see parts {parts}"
        warnings.warn(told, ManyviewWarning, stacklevel=3)
    return state
