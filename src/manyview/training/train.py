"""The loop, from top to bottom: set up; batch, step, update, log, evaluate, keep; result.

What it sets up, writes and shows lies beside it, one idea a file: `setup`, `resume`, `update`, `state`, `stopwatch`,
`journal`, `collapse`, `failure`, `validation`, `result`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from manyview.branches.given import Given
from manyview.errors import DataError, Interrupted, Lost, ManyviewError, RunError
from manyview.foundation.distributed import largest, union
from manyview.foundation.group import as_one, join, losing_none
from manyview.recipe.recipe import Recipe, check_recipe
from manyview.training.collapse import look_for_collapse
from manyview.training.failure import FirstFailure, largest_weight, report_failure
from manyview.training.held import held
from manyview.training.interrupt import interruptible
from manyview.training.journal import Journal
from manyview.training.kept_features import keep_features
from manyview.training.result import write_result
from manyview.training.resume import begin, take_up
from manyview.training.run import Run, run_of
from manyview.training.saving import Saver, kept
from manyview.training.setup import Setup, set_up
from manyview.training.sharding import beside_shards
from manyview.training.state import State, checkpoint_of
from manyview.training.stopwatch import Stopwatch
from manyview.training.surroundings import left_as_found
from manyview.training.update import update
from manyview.training.validation import Validation


@left_as_found()
@losing_none()
def train(
    recipe: Recipe,
    out: str | Path,
    *,
    backbone: Given | None = None,
    data: Mapping[str, Any] | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains a recipe into the folder `out` and returns what its result.json holds.

    backbone: a network in the place of the recipe's, or {branch: module}; the very object is trained.
    data: {"train": dataset, "val": …, "test": …} in the place of the recipe's, see docs/own_data.md. resume: continue a
    run that was interrupted, as if nothing had happened; also starts one that has not begun.
    Raises ManyviewError, before anything is written, for all that can be known to be wrong beforehand; where images
    turn out to be wrong before there is a checkpoint, the folder is as it was.
    """
    # -------------------------------------------------------------------------------------------- set up
    check_recipe(recipe, "train")
    run = run_of(out, recipe.words, "train: out")
    join()
    with as_one():
        if resume:
            run.check_given(backbone)
        setup = set_up(recipe, quiet, backbone, data, pretrained=not (resume and kept(run.last)))
        new = run.is_new
    setup = setup.over_all(given=backbone is not None)
    with held(run.folder, setup.main):
        begin(run, setup, resume)
        if (finished := run.finished()) is not None:
            setup.display.say(f"{run.folder} is finished; nothing to do")
            return finished
        return _trained(run, setup.on_devices(), resume, new)


def _trained(run: Run, setup: Setup, resume: bool, new: bool) -> dict[str, Any]:
    """The result of a run whose folder has begun. new: whether it was empty before."""
    with as_one():
        state = take_up(run, setup, resume)
    setup.step.attach(setup.optimizer)  # EMAs, queues, prototypes and averages follow its updates
    validation = Validation(setup, state)
    try:
        with losing_none(), beside_shards(setup.mesh):
            keep_features(setup)
            _loop(run, setup, state, validation)
    except (DataError, Lost):  # an image that cannot be read, here or there: what is to be done, by the same command
        if new and setup.main:
            run.withdraw()
        raise

    # -------------------------------------------------------------------------------------------- result
    result = validation.led(lambda post: write_result(run, validation, post)) or {}
    setup.accelerator.wait_for_everyone()
    return result


def _loop(run: Run, setup: Setup, state: State, validation: Validation) -> None:
    """Updates the step until the run is done. Raises Interrupted, or RunError where it fails, once the folder tells."""
    config, clock, step, accelerator = setup.recipe.train, setup.clock, setup.step, setup.accelerator
    journal, stream = Journal(setup, run, state.number), setup.stream(state.number)
    journal.begin(state.number)
    first_bad, failed, stopped, ending, terms = FirstFailure(accelerator), 0, 0, "", dict[str, float]()
    with (
        interruptible(setup.display.stopping) as asked,
        setup.display.training(),
        closing(journal),
        closing(stream),
        Saver(config.checkpoints) as saver,
    ):
        validation.untrained(journal)
        step.train()
        watch = Stopwatch(state.seconds, state.waited)

        def save(path: Path) -> None:
            state.seconds, state.waited = watch.seconds, watch.waited
            if setup.mesh is not None:
                saver.wait()  # what it writes names shards, of which only those in use are left
            found = checkpoint_of(path, step, setup.optimizer, state)
            if setup.main:
                saver.save(path, found, run.metrics, alone=path == run.best)

        for number in range(state.number, clock.steps):
            # ---------------------------------------------------------------------- batch, step, update
            lr = setup.set_lr(number)
            output, means = update(setup, number, stream, state, watch, first_bad)
            done = state.number = number + 1
            epoch, within = divmod(done, clock.steps_per_epoch)
            last = done == clock.steps
            logs = done % config.log_every == 0 or within == 0 or last
            # on several processes, all must stop at the same step
            stopped = asked() if accelerator.num_processes == 1 else logs and largest(asked(), accelerator)
            keeps = done % setup.checkpoint_every == 0 or last or stopped

            # ------------------------------------------------------------------------------------- log
            setup.display.advance(done)
            if logs or keeps:
                terms = dict(zip(output["terms"], accelerator.reduce(means, "mean").tolist(), strict=True))
                first_bad.note(largest_weight(step), done)
                if failed := first_bad.earliest():
                    break
            if logs:
                journal.update(done, lr, terms, output, watch.lap())
                ending = look_for_collapse(setup, state, output, journal.spread, terms)

            # -------------------------------------------------------------------------------- evaluate
            if last or (within == 0 and epoch % config.evaluate_every == 0):
                with watch.paused():
                    val = validation.val(lambda: save(run.last))
                    if largest(int(validation.is_best(val)), accelerator):
                        save(run.best)
                    journal.epoch(done, val, terms)
                    accelerator.wait_for_everyone()

            # ------------------------------------------------------------------------------------ keep
            if keeps or ending:
                state.skipped = union(state.skipped, accelerator)
                save(run.last)
            if stopped or ending:
                break
    if failed:
        ending = report_failure(run, setup, failed, state.number, terms, first_bad.began(failed))
    accelerator.wait_for_everyone()  # a launcher ends the others with the first that leaves
    told: ManyviewError | None = RunError(ending) if ending else None
    if stopped and not ending:
        told = Interrupted(f"stopped at step {state.number}; continue with the same command and resume=True", stopped)
    if told is not None:
        told.tells = setup.main
        raise told
