"""What a run tells of itself while it goes on: lines in its metrics, and on the display."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import final

from manyview.errors import ManyviewWarning
from manyview.foundation.distributed import mean_of
from manyview.step import Output
from manyview.training.doubts import doubts
from manyview.training.health import health
from manyview.training.log import Metrics
from manyview.training.pseudo_labels import Correctness
from manyview.training.run import Run
from manyview.training.setup import Setup
from manyview.views.trial import reference_note


@final
class Journal:
    """Of the main process, which alone writes and shows; of others it only measures with them.

    spread: how far embeddings are from a collapse, at the last logged update, see `health`.
    """

    def __init__(self, setup: Setup, run: Run, start: int) -> None:
        self._setup = setup
        self._metrics: Metrics | None = None
        if setup.main:
            self._metrics = Metrics(run.metrics, start, setup.recipe.train.track, setup.recipe.flat)
        self._shown = start
        self._correct = Correctness(setup.splits)
        self.spread: dict[str, float] = {}

    def begin(self, start: int) -> None:
        """What is about to be trained; of settings that do not fit the run's length, a warning each."""
        setup = self._setup
        if setup.main:
            for doubt in doubts(setup.recipe, setup.step, setup.clock, len(setup.splits.train)):
                warnings.warn(doubt, ManyviewWarning, stacklevel=3)
        setup.display.start(setup.recipe, setup.splits.note, setup.rendering, setup.clock, start, setup.step)
        if note := reference_note(setup.recipe.seen_views, setup.recipe.words):
            setup.display.say(f"views: {note}")

    def update(self, done: int, lr: float, terms: Mapping[str, float], output: Output, seconds: float) -> None:
        """An update that is logged. terms: their means; seconds: since the one logged before."""
        speed = (done - self._shown) * self._setup.images_per_step / seconds
        self._shown, self.spread = done, mean_of(health(output["z"]), self._setup.accelerator)
        loss = sum(terms.values())
        measured: dict[str, object] = {"images_per_second": round(speed, 1), **self.spread}
        if output["measures"]:
            own = {name: float(value) for name, value in output["measures"].items()}
            accelerator = self._setup.accelerator
            measured["measures"] = mean_of(own, accelerator) | self._correct.of(self._setup.step, accelerator)
        self._write(done, loss=loss, terms=dict(terms), lr=lr, **measured)
        self._setup.display.advance(done, speed, loss, terms, self.spread)

    def epoch(self, done: int, val: Mapping[str, float], terms: Mapping[str, float] | None = None) -> None:
        """The end of an epoch, or with `done` 0 what was before the first; val: measures on validation images."""
        if val:
            self._write(done, val=dict(val))
        number = done // self._setup.clock.steps_per_epoch
        self._setup.display.epoch(number, val, terms, self.spread if done else None)

    def _write(self, done: int, **measures: object) -> None:
        if self._metrics is not None:
            self._metrics.write(done, done / self._setup.clock.steps_per_epoch, **measures)

    def close(self) -> None:
        """Flushes what was written."""
        if self._metrics is not None:
            self._metrics.close()
