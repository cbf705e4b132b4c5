"""Runs and comparisons as a page: which sections there are, and where each part of them comes from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manyview.errors import ManyviewError, RunError, shown
from manyview.foundation.words import counted
from manyview.recipe.recipe import Recipe
from manyview.report import comparison, one_run
from manyview.report.answers import answers
from manyview.report.blocks import Block, Code, Page, Section, Text
from manyview.report.seen import graph, samples
from manyview.report.side import side_by_side
from manyview.report.told import Told, guarded, tell
from manyview.show.step_cost import step_cost
from manyview.step import Step
from manyview.training.recompute import save_memory
from manyview.training.registry import run_folders
from manyview.training.run import INCIDENTAL, Run
from manyview.words.load import Use

DETAILED = 6
"""Runs of a page that have pictures and answers; what one file holds is bounded."""
MOST_RUNS = 60


@dataclass(frozen=True)
class Wishes:
    """What is asked for beside the runs' files.

    split: whose answers are shown. overrides: where data are. use: words of one's own. samples: images of each stream.
    answers: pass the split through the network. measure: train two steps for memory and FLOPs.
    """

    split: str = "val"
    overrides: Sequence[str] = ()
    use: Use | Sequence[Use] = ()
    samples: int = 3
    answers: bool = True
    measure: bool = False
    quiet: bool = True


Keep = Callable[[Hashable, Hashable, Callable[[], list[Block]]], list[Block]]
"""Gives what was made before for a place, if its mark is the same, or makes it."""


def anew(place: Hashable, mark: Hashable, make: Callable[[], list[Block]]) -> list[Block]:
    """Keeps nothing."""
    return make()


@dataclass(frozen=True)
class Shown:
    """What a page is of.

    runs: (folder, name, group), of one group those of one colour. detailed: places of those to be shown
    whole, of which the first are. compared: of a finished comparison, which lies in `top`.
    """

    title: str
    runs: Sequence[tuple[Path, str, str]]
    detailed: Sequence[int] = field(default_factory=tuple)
    compared: comparison.Compared | None = None
    top: Path = Path()


WHERE = tuple(key for key in INCIDENTAL if key.startswith("data."))
"""What overrides may say: where data are, and how they are read."""


def check(wishes: Wishes) -> None:
    """Raises RunError for an override that says anything else."""
    for text in wishes.overrides:
        if text.partition("=")[0].strip() not in WHERE:
            raise RunError(f"override {text!r}: of a run nothing can be changed but {', '.join(WHERE)}")


def find(targets: Sequence[Path]) -> Shown:
    """The runs that are named, those below a folder of runs, or those of a comparison.

    Raises RunError for what is neither, and for a comparison beside others.
    """
    compared = [each for each in targets if (each / comparison.NAME).is_file()]
    if compared and len(targets) > 1:
        raise RunError(f"{compared[0]} is a comparison; report it alone")
    if compared:
        return _compared(compared[0])
    runs: list[tuple[Path, str, str]] = []
    for target in targets:
        found = list(run_folders(target))
        if not found:
            raise RunError(f"{target} is neither a run (it has no recipe.yaml) nor a comparison nor a folder of runs")
        for folder in found:
            name = folder.as_posix()
            runs.append((folder, name, name))
    runs = list(dict.fromkeys(runs))
    if len(runs) > MOST_RUNS:
        raise RunError(f"{counted(len(runs), 'run')} are too many for a page; name at most {MOST_RUNS}")
    title = runs[0][0].name if len(runs) == 1 else counted(len(runs), "run")
    return Shown(title, runs, range(len(runs)))


def _compared(top: Path) -> Shown:
    found = comparison.read(top)
    folders = found.folders(top)
    runs = [(folder, f"{name}, seed {seed}", name) for name, seed, folder in folders]
    groups = [group for _, _, group in runs]
    first = [groups.index(group) for group in dict.fromkeys(groups)]
    return Shown(f"Comparison of {', '.join(entry.name for entry in found.recipes)}", runs, first, found, top)


def page(about: Shown, wishes: Wishes, live: bool = False, keep: Keep = anew) -> Page:
    """All of it; what is not there is told in its place. Raises ManyviewError where all runs are damaged."""
    runs, damaged = _read(about)
    if len(about.runs) == 1 and about.compared is None:
        run = runs[0][0]
        sections = _parts(run, "run", wishes, live, keep)
        return Page(run.title, f"Run {run.name}, seed {run.known.seed}", sections, live)
    found = about.compared
    sections = []
    if found is not None:
        verdict = [*comparison.verdict(found), *comparison.others(found)]
        sections += [Section("comparison", "Comparison", verdict)]
        sections += [Section("comparison-cost", "Cost", comparison.cost(found))]
    sections.append(
        Section("side", "Side by side", side_by_side([*runs.values()]) if runs else [Text("No runs are here.", True)])
    )
    if damaged:
        sections.append(Section("damaged", "Not readable", damaged))
    detailed = [number for number in about.detailed if number in runs][:DETAILED]
    for number in detailed:
        run, key = runs[number][0], f"run-{number}"
        sections.append(Section(key, run.name, (), _parts(run, key, wishes, live, keep), run.title))
    left = len(runs) - len(detailed)
    if found is not None:
        sections.append(Section("comparison-again", "Make it again", comparison.again(found)))
    elif left:
        told = f"{counted(left, 'further run')} in tables and curves alone; name fewer runs to see all of them."
        sections.append(Section("left", "Further runs", [Text(told, told=True)]))
    count = counted(len(about.runs), "run")
    return Page(about.title, count if count != about.title else "", sections, live)


def _read(about: Shown) -> tuple[dict[int, tuple[Told, str]], list[Block]]:
    """The runs by their places, each with its group, and what is told of damaged ones. Raises where all are damaged."""
    runs: dict[int, tuple[Told, str]] = {}
    damaged: list[ManyviewError] = []
    for number, (folder, name, group) in enumerate(about.runs):
        try:
            runs[number] = tell(folder, name), group
        except ManyviewError as error:
            damaged.append(error)
    if damaged and not runs:
        raise damaged[0]
    return runs, [Text(shown(error), told=True) for error in damaged]


def _parts(run: Told, key: str, wishes: Wishes, live: bool, keep: Keep) -> list[Section]:
    """A run's sections. live: of a run that goes on, answers come when it is finished."""
    steps = None if run.result else run.curves.step or 0
    at, use = wishes.overrides, wishes.use
    graphs = keep(
        (run.folder, key, "graph"), run.text, lambda: guarded("No view graph", lambda: graph(_recipe(run, wishes)))
    )
    seen: list[Block] = [Text("Not asked for.", told=True)]
    if wishes.samples:
        seen = keep(
            (run.folder, key, "samples"),
            None if steps is None else (steps // _each_epoch(run)).bit_length(),  # while it goes on, ever more rarely
            lambda: guarded("No samples", lambda: samples(run.folder, at, use, wishes.samples, steps)),
        )
    said: list[Block] = [Text("Answers of the network come when the run is finished.", told=True)]
    if not wishes.answers:
        said = [Text("Not asked for.", told=True)]
    elif run.result or not live:
        said = keep(
            (run.folder, key, "answers"),
            bool(run.result),
            lambda: guarded(
                "No answers",
                lambda: answers(run.folder, key, wishes.split, at, use, wishes.quiet),
            ),
        )
    protocols = one_run.kept_protocols(run, key)
    measured = _measured(run, wishes) if wishes.measure else []
    parts = [
        Section(f"{key}-overview", "At a glance", one_run.overview(run)),
        Section(f"{key}-graph", "What is asked of the views", graphs),
        Section(f"{key}-samples", "What the network saw", seen),
        Section(f"{key}-training", "Training", one_run.training(run, key)),
        Section(f"{key}-results", "Results", one_run.results(run, key)),
        Section(f"{key}-answers", "Answers", said),
    ]
    if protocols:
        parts.append(Section(f"{key}-protocols", "Evaluated afterwards", (), protocols))
    parts.append(Section(f"{key}-cost", "Cost", [*one_run.cost(run, bool(measured)), *measured]))
    parts.append(Section(f"{key}-again", "Make it again", one_run.again(run)))
    return parts


def _each_epoch(run: Told) -> int:
    """Updates an epoch, by the last line of metrics; 1 where that cannot be told."""
    epoch, step = run.curves.epoch, run.curves.step
    return max(1, round(step / epoch)) if epoch and step else 1


def _recipe(run: Told, wishes: Wishes) -> Recipe:
    return Run(run.folder, wishes.use).recipe()


def _measured(run: Told, wishes: Wishes) -> list[Block]:
    def lines() -> list[Block]:
        recipe = _recipe(run, wishes)
        classes = run.splits.get("classes")
        step = Step(recipe, len(classes) if isinstance(classes, list) else 10, pretrained=False)
        save_memory(step)
        return [Code("Two steps, trained for this page", "\n".join(step_cost(recipe, step, None).lines(None)))]

    return guarded("Memory and FLOPs could not be measured", lines)


__all__ = ["Shown", "Wishes", "check", "find", "page"]
