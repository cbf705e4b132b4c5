"""What a person sees of long work: a bar with speed and time left, a line an epoch, and a table at the end."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from manyview.branches.origin import without_origin
from manyview.data.render import Rendering
from manyview.evaluate.report import Table as Tabular
from manyview.evaluate.report import cell
from manyview.foundation.streams import Escaping, hushed
from manyview.foundation.words import counted, duration
from manyview.optimize.optimize import Clock
from manyview.recipe.recipe import Recipe
from manyview.recipe.streams import a_step
from manyview.show.console import TIE, Row, tied, wrapped
from manyview.step import Step

TOLD_AFTER = 10  # seconds
WATCHED = {"z_std_sqrt_d": "z_std·√d {:.2f}", "effective_rank": "rank {:.1f}"}
LABELS = {
    "top1": "top-1",
    "top5": "top-5",
    "class_mean": "class mean",
    "aggregated_top1": "aggregated top-1",
    "aggregated_top5": "aggregated top-5",
    "aggregated_class_mean": "aggregated class mean",
    "knn": "kNN",
    "linear": "linear probe",
    "linear_weight": "linear probe's penalty",
}
UNITS = {
    r"(_weight|_lr|temperature)$": "{:.3g}",
    r"loss$|^calibration|^awareness(?!.*_right$)|^invariance(?!.*_agreement$)": "{:.3f}",
    r"_(forwards|left_out|labels|k|ways|queries)$": "{:.0f}",
}
"""By what is found in a measure's name, settings left out; all others are in percent."""


def table_row(name: str, *values: float | None) -> list[str]:
    """A measure's name and values as a table shows them."""
    bare = re.sub(r"\(.*\)", "", name)
    unit = next((text for pattern, text in UNITS.items() if re.search(pattern, bare)), "{:.2f} %")
    label = LABELS.get(name, name.replace("_", " ").replace("knn", "kNN"))
    return [label, *("" if value is None else unit.format(value) for value in values)]


def protocol_row(call: str, name: str, value: float) -> list[str]:
    """A measure as a protocol's report calls it, and its value in the unit that it has beside others of a run.

    call: the protocol's, as `calibration(bins=15)`. name: "" for the one that the protocol is called by.
    """
    protocol = re.split(r"[( ]", call)[0]
    whole = name if protocol == "classify" else "_".join(filter(None, (protocol, name)))
    return [table_row(name or protocol)[0], table_row(whole, value)[1]]


def number(measure: str, value: float, signed: bool = False) -> str:
    """A value with the digits that tables show of this measure; accuracies without their per cent signs."""
    text = table_row(measure, value)[1].removesuffix(" %")
    return f"+{text}" if signed and value >= 0 else text


def rich_table(title: str, table: Tabular) -> Table:
    """A report's table for the console."""
    shown = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*map(cell, row))
    return shown


class Display:
    """Prints to a console; on anything but a terminal the bars are left out and the lines remain."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        file: Any = Escaping(sys.stdout)  # also where a program of its own calls `train`
        self._console = console or Console(file=file, quiet=quiet, highlight=False, markup=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._total = self._done = 0
        self._watches = False

    def say(self, text: str, indent: int = 0) -> None:
        """One line; on a terminal, which would break words, it goes on below, indented."""
        if self._console.is_terminal:
            text = wrapped(text, self._console.width, indent)
        self._console.print(text.replace(TIE, " "), soft_wrap=True)

    def start(self, recipe: Recipe, note: str, rendering: Rendering, clock: Clock, done: int, step: Step) -> None:
        """What is about to be trained."""
        parameters = sum(p.numel() for p in step.parameters() if p.requires_grad)
        epochs = counted(clock.steps / clock.steps_per_epoch, "epoch")
        each = f", {a_step(recipe)} each" if recipe.data.unlabeled else ""
        lines = {
            "data": note,
            "views": f"{', '.join(step.rendered_views)}, made by {rendering}",
            "model": f"{without_origin(step.main.spec.backbone)}, {counted(parameters, 'parameter')}",
            "run": f"{counted(clock.steps, 'step')}, {epochs} of {clock.steps_per_epoch:,}{each}, seed {recipe.seed}",
        }
        if step.starts:
            lines["starts"] = "; ".join(f"{part} from {start}" for part, start in step.starts.items())
        self.say(f"{recipe.title or 'untitled'}")
        for name, text in lines.items():
            self.say(f"  {name:<9}{text}", indent=11)
        self._total, self._done = clock.steps, done
        self._watches = step.classifier is None or step.classifier in step.main.spec.probes

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Shows the bar of the whole run while the loop is inside."""
        with self._progress() as self._bar:
            self._task = self._bar.add_task("train", total=self._total, completed=self._done, measures=())
            yield
        self._bar = None

    def stopping(self, signal: int) -> None:
        """A run that was asked to end by a signal goes on until the step under way is done and saved."""
        # the others may come as often as schedulers like
        ends = {int(SIGINT): "Ctrl-C again", int(SIGTERM): "SIGTERM once more, 5 s from now,"}.get(signal)
        self.say("stopping after this step" + (f"; {ends} ends at once" if ends else ""))

    def advance(
        self,
        done: int,
        speed: float = 0.0,
        loss: float = 0.0,
        terms: Mapping[str, float] | None = None,
        spread: Mapping[str, float] | None = None,
    ) -> None:
        """The bar's new position; with terms, its speed in images/s, losses and, without a classifier, spread too."""
        if self._bar is None:
            return
        self._bar.update(self._task, completed=done)
        if terms is not None:
            parts = [f"{name} {value:.3f}" for name, value in terms.items()]
            shown = (f"loss {loss:.3f}", f"{speed:,.0f} images/s", *self._spread(spread or {}), *parts)
            self._bar.update(self._task, measures=shown)

    def epoch(
        self,
        number: int,
        val: Mapping[str, float],
        terms: Mapping[str, float] | None = None,
        spread: Mapping[str, float] | None = None,
    ) -> None:
        """One line that stays; epoch 0 is before training."""
        parts = [f"{name} {value:.3f}" for name, value in (terms or {}).items()] + self._spread(spread or {})
        parts += [
            f"val {LABELS[name]} {value:.2f}"
            for name, value in val.items()
            if name in ("top1", "aggregated_top1", "knn")
        ]
        self.say(f"epoch {number:>3}  {tied(parts)}", indent=11)

    def _spread(self, measures: Mapping[str, float]) -> list[str]:
        """How far the embeddings are from a collapse, where nothing classifies them."""
        return [text.format(measures[name]) for name, text in WATCHED.items() if self._watches and name in measures]

    def busy(self, what: str) -> contextlib.AbstractContextManager[Any]:
        """A spinner for as long as the block lasts, on a terminal; where all is quiet, so is what compiles."""
        if self._console.quiet:
            return hushed()
        return self._console.status(what) if self._console.is_terminal else contextlib.nullcontext()

    @contextlib.contextmanager
    def evaluating(self, what: str, count: int, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
        """A bar for as long as the block lasts, below that of the training if there is one; gives f(done, total).

        On anything but a terminal a line on stderr, once that has taken `TOLD_AFTER` seconds and is not at its end.
        """
        told = self._console.quiet or self._console.is_terminal
        with contextlib.ExitStack() as stack:
            bar = self._bar or stack.enter_context(self._progress())
            task = bar.add_task(what, total=count, measures=("starting",))
            began = time.perf_counter()

            def tick(done: int, total: int) -> None:
                nonlocal told
                took = max(time.perf_counter() - began, 1e-9)
                speed = done / took
                if not told and took > TOLD_AFTER and done < total:
                    told, left = True, duration((total - done) / speed) if done else "…"
                    line = f"{what}: {done:,} of {total:,} {unit}, {speed:,.0f} {unit}/s, {left} to go"
                    print(f"manyview: {line}", file=sys.stderr, flush=True)
                bar.update(task, completed=done, total=total, measures=(f"{speed:,.0f} {unit}/s",))

            yield tick
            bar.remove_task(task)

    def summary(self, folder: Path, result: Mapping[str, Any]) -> None:
        """The end: a table of what was measured, and where it lies."""
        table = Table()
        table.add_column("measure", overflow="fold")
        splits = {
            split: result[key] for split, key in (("val", "val"), (result["eval_split"], "eval")) if result.get(key)
        }
        for split in splits:
            table.add_column(str(split), justify="right", no_wrap=True)
        for name in dict.fromkeys(name for measures in splits.values() for name in measures):
            table.add_row(*table_row(name, *(measures.get(name) for measures in splits.values())))
        if splits:
            self._console.print(table)
        else:
            self.say("nothing was measured: no labelled image was held out, or `evaluate` is empty")
        for call, note in result.get("notes", {}).items():
            self.say(f"{call}: {note}")
        self.say(
            f"{result['seconds']:.0f} s, {result['images_per_second']:,.0f} images/s, {result['waiting']:.1f} % of it "
            f"waiting for data; weights chosen by {result['selected_by']}; results in {folder / 'result.json'}"
        )
        if result["skipped_images"]:
            said = counted(len(result["skipped_images"]), "image")
            self.say(f"{said} could not be read and {'was' if len(result['skipped_images']) == 1 else 'were'} skipped:")
            for line in result["skipped_images"]:
                self.say(f"  {line}")

    def _progress(self) -> Progress:
        shown = self._console.is_terminal
        return Progress(Row(), console=self._console, transient=True, disable=not shown, expand=True)
