"""A run's folder begins, or goes on as if nothing had happened, on as many processes as there are now."""

from __future__ import annotations

from manyview.errors import RunError, warn
from manyview.foundation.group import as_one, check_alike
from manyview.training.networks import note_of
from manyview.training.run import Run
from manyview.training.setup import Setup
from manyview.training.state import State, read_checkpoint


def begin(run: Run, setup: Setup, resume: bool) -> None:
    """Makes the folder, or checks that it can go on. Raises RunError where it cannot, on all processes."""
    data = f"{setup.splits.counts} {setup.splits.classes}"
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
    if run.last.is_file():
        state = read_checkpoint(run.last, setup.step, setup.optimizer, setup.mesh)
        if setup.main and not setup.recipe.keeps_best:
            run.best.unlink(missing_ok=True)  # as versions kept it that chose by labels what learnt from none
        setup.display.say(f"resumed at step {state.number} of {setup.clock.steps}")
    if setup.main and (before := run.continue_on(state.number, world)) != world:
        parts = f"of {setup.together} images, until now of {train.batch_size // (before * train.accumulate)}"
        told = f"resumed on {world} processes, begun on {before}: BatchNorm and mixing see parts {parts}"
        warn(told)
    return state
