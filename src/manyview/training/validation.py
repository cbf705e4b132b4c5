"""What is measured on held-out images while a run goes on, and which weights are the best for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from manyview.errors import ManyviewError, ManyviewWarning, Unreadable
from manyview.evaluate.crew import Crew, Post, Task, crew_of, led
from manyview.evaluate.evaluate import evaluate, while_training
from manyview.evaluate.features import Features
from manyview.evaluate.model import StepModel
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.online import probe_accuracies
from manyview.training.journal import Journal
from manyview.training.setup import Setup
from manyview.training.state import State

T = TypeVar("T")


@dataclass(frozen=True)
class Validation:
    """Measures the step of a run as it is, and notes what could not be read, and what was best, in its state.

    All processes call `untrained`, `val` and `led`, and pass the images through the network together; what protocols
    find is the main process's alone.
    """

    setup: Setup
    state: State

    @cached_property
    def _usual(self) -> tuple[str, list[Measure]]:
        return while_training(self.setup.protocols, self.setup.step, self.setup.splits)

    @property
    def choice(self) -> str:
        """The measure that tells which weights are best."""
        return self._usual[0]

    @property
    def chooses(self) -> list[Measure]:
        """What is measured for it; empty where nothing is."""
        return self._usual[1]

    @cached_property
    def _crew(self) -> Crew | None:
        return crew_of(self.setup.accelerator.device)

    def led(self, work: Callable[[Post | None], T]) -> T | None:
        """What `work` gives on the main process, whose features all others make with it; see `crew.led`."""

        def share(post: Post | None) -> T:
            return work(None if post is None else lambda task: self._call(post, task))

        def help(task: Task) -> None:
            self._weights_of_the_first()
            self.features().help(task)

        with self.setup.looking():
            return led(self._crew, share, help)

    def _call(self, post: Post, task: Task) -> None:
        post(task)
        self._weights_of_the_first()

    def _weights_of_the_first(self) -> None:
        """Moments of BatchNorm are each process's own until the next step, and kept weights are read by the first."""
        if self._crew is not None:
            self._crew.alike(self.setup.judged.evaluated.state_dict().values())

    def features(self, post: Post | None = None) -> Features:
        """What the weights of now make of the data. post: how others are called, see `led`; they have the same ones."""
        skipped: list[str] | None = [] if self.setup.recipe.data.on_bad_image == "skip" else None
        return Features(
            StepModel(self.setup.judged, self.setup.splits.classes),
            self.setup.splits,
            seed=self.setup.recipe.seed,
            skipped=skipped,
            watch=self.setup.display.evaluating,
            workers=self.setup.recipe.data.workers,
            patience=self.setup.recipe.data.timeout,
            crew=self._crew,
            post=post,
        )

    def measure(
        self,
        features: Features,
        split: str,
        chosen: Sequence[Measure],
        failed: dict[str, str] | None = None,
        notes: dict[str, str] | None = None,
    ) -> dict[str, float]:
        """As `evaluate`, and what online probes say; images that could not be read are noted."""
        measures = evaluate(features, split, chosen, failed, notes)
        try:
            measures |= probe_accuracies(self.setup.judged, features, split)
        except ManyviewError as error:
            if failed is None:
                raise
            failed["online probes"] = str(error)
        self.state.skip(features.skipped or [])
        return measures

    def untrained(self, journal: Journal) -> None:
        """What training has to beat where nothing classifies: each split's measures, before the first update alone."""
        setup, splits = self.setup, self.setup.splits
        asked = setup.recipe.train.untrained and self.chooses
        if self.state.number or setup.step.classifier is not None or not asked:
            return

        def judge(post: Post | None) -> None:
            features, held = self.features(post), {"val": splits.val, "test": splits.test}
            found = {name: self._while_training(features, name) for name in held if held[name] is not None}
            self.state.untrained = found
            journal.epoch(0, found.get("val", {}))

        self.led(judge)
        setup.accelerator.wait_for_everyone()

    def val(self, keep: Callable[[], None]) -> dict[str, float]:
        """The usual measures on the validation images; empty where there are none, and on others than the main process.

        keep: called before an error is passed on, so that what was trained is not lost with what cannot be measured.
        """
        try:
            if self.setup.splits.val is None:
                return {}
            return self.led(lambda post: self._while_training(self.features(post), "val")) or {}
        except ManyviewError:
            keep()
            raise

    def _while_training(self, features: Features, split: str) -> dict[str, float]:
        """The usual measures; none, and a line, of a split whose images are all left out."""
        try:
            return self.measure(features, split, self.chooses)
        except Unreadable as error:
            self.state.skip(features.skipped or [])
            warnings.warn(f"not measured: {error}", ManyviewWarning, stacklevel=3)
            return {}

    def is_best(self, val: dict[str, float]) -> bool:
        """Whether no weights before were better; then these are the best. Of equals the surer ones are better."""
        score = [val.get(self.choice, -math.inf), -val.get("loss", 0.0)]
        if not val or not self.setup.recipe.keeps_best or not score > self.state.best:
            return False
        self.state.best = score
        return True
