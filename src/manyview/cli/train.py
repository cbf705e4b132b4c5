"""Training, and going on with it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manyview.cli.arguments import Cpus, Gpus, On, Overrides, Quiet, Use, cluster, is_override, load
from manyview.cli.complete import recipes_or_runs
from manyview.cli.launch import Meet, Nodes, Processes, start, starts, together
from manyview.cli.speech import console, ringing
from manyview.errors import Interrupted, RunError
from manyview.foundation.lock import others
from manyview.recipe.find import packaged_recipes, recipe_text, text_of_run
from manyview.training.interrupt import ending
from manyview.words.files import check_files

if TYPE_CHECKING:
    from manyview.recipe.recipe import Recipe

CLOSED_PIPE = 13  # the number of SIGPIPE, which Windows has not
RecipeOrRun = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A packaged recipe's name, or a YAML file; with --resume, a run's folder is enough.",
        autocompletion=recipes_or_runs,
    ),
]


def train(
    recipe: RecipeOrRun,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; a new run needs one.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an interrupted run exactly: --resume RUN is all it takes. With --out, begins where there is "
            "nothing to continue (--resume auto is the same).",
        ),
    ] = False,
    quiet: Quiet = False,
    use: Use = None,
    processes: Processes = None,
    nodes: Nodes = 1,
    meet: Meet = None,
    on: On = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
) -> None:
    """Trains a recipe and writes checkpoints, metrics and result.json into a folder."""
    if on is not None and processes is not None:
        raise RunError("--on ray trains on one process; for several, leave --on out, or launch with torchrun or srun")
    others = starts(processes, nodes, meet)
    first, *words = _without_auto([recipe, *(overrides or ())]) if resume else [recipe, *(overrides or ())]
    with ending(), together():
        name, folder, changes = _asked_for(first, words, out, resume)
        if name is not None:
            recipe_text(name)
            loaded = load(name, changes, use)
        elif not changes and (folder / "result.json").is_file():  # as training itself would find, seconds later
            if not quiet:
                console.print(f"{folder} is finished; nothing to do", soft_wrap=True)
            return
        else:
            loaded = _of_run(folder, changes, use or ())
    if others and processes:
        _begun(folder, resume)
        with ending():
            start(sys.argv[1:], processes, nodes, meet)

    if on is not None:
        result = cluster(on, cpus, gpus, use).training(loaded, _begun(folder, resume))()
        if not quiet:
            console.print(f"{folder}: {result['recipe']}, {result['steps']} steps on Ray; its result.json has the rest")
        return

    with ringing("training", quiet):
        try:
            with ending():
                from manyview.training.train import train as run_training  # for seconds, in which a signal may come

                run_training(loaded, folder, resume=resume, quiet=quiet)
        except Interrupted as error:
            if not (folder / "recipe.yaml").is_file():
                raise  # nothing was begun
            stopped = Interrupted(f"{str(error).partition(';')[0]}; {again(folder, use or ())}", error.signal)
            stopped.tells = error.tells
            raise stopped from None
        except (KeyboardInterrupt, BrokenPipeError, SystemExit) as error:  # the last is rich's, where a pipe is closed
            if not (folder / "recipe.yaml").is_file():
                raise  # nothing was begun
            asked = isinstance(error, KeyboardInterrupt)
            told = "stopped" if asked else "stopped, since nobody reads any more what it prints"
            raise Interrupted(f"{told}; {again(folder, use or ())}", 0 if asked else CLOSED_PIPE) from None


def _begun(folder: Path, resume: bool) -> Path:
    """The folder of a run that is trained by others. Raises RunError for one that is not empty, unless it goes on."""
    if not resume and others(folder):
        raise RunError(f"{folder} is not empty; choose another --out, or continue with --resume")
    return folder


def _without_auto(given: list[str]) -> list[str]:
    """The words without the `auto` of `--resume auto`, as other programs have it: it is what --resume does."""
    if "auto" in given and len([word for word in given if not is_override(word)]) > 1:
        given.remove("auto")
    return given


def again(folder: Path, use: Sequence[Path]) -> str:
    """How to go on with an interrupted run, to be copied."""
    launched = " under the same launcher" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    words = ["manyview", "train", "--resume", str(folder), *(word for path in use for word in ("--use", str(path)))]
    return f"continue{launched} with: {shlex.join(words)}"


def _asked_for(
    recipe: str, words: Sequence[str], out: Path | None, resume: bool
) -> tuple[str | None, Path, Sequence[str]]:
    """The recipe's name, None for the run's own; the run's folder; overrides. Raises RunError."""
    if out is not None:
        return recipe, out, words
    if not resume:
        raise RunError("missing option '--out'; write --out runs/NAME")
    given = [recipe, *words]
    changes = [word for word in given if is_override(word)]
    named = [word for word in given if word not in changes]
    if len(named) not in (1, 2):
        got = ", ".join(named) or "none"
        raise RunError(f"--resume takes one run, and no more than a recipe beside it; got {got}")
    run = next((name for name in named if (Path(name) / "recipe.yaml").is_file()), named[-1])
    if run == named[0] and run in packaged_recipes() and not Path(run).exists():
        raise RunError(f"{run} is a recipe, not a run; write --resume RUN, or train {run} --out RUN --resume")
    named.remove(run)
    text_of_run(Path(run))
    return next(iter(named), None), Path(run), changes


def _of_run(folder: Path, overrides: Sequence[str], use: Sequence[Path]) -> Recipe:
    check_files(use)

    from manyview.training.run import Run

    return Run(folder, use).recipe(*overrides, exact=True)
