"""The protocols that judge one set of data, by name; those made of others stand in `protocols` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from manyview.errors import RecipeError, unknown
from manyview.evaluate.accuracy import Classify
from manyview.evaluate.aggregate import Aggregate
from manyview.evaluate.attacks import Adversarial
from manyview.evaluate.awareness import Awareness
from manyview.evaluate.calibration import Calibration
from manyview.evaluate.fewshot import FewShotTasks
from manyview.evaluate.finetune import Finetune
from manyview.evaluate.invariance import Invariance
from manyview.evaluate.knn import Knn
from manyview.evaluate.linear import Linear
from manyview.evaluate.linear_sgd import LinearSgd
from manyview.evaluate.report import Report
from manyview.evaluate.robustness import Robustness
from manyview.foundation.grammar import bind, parse_call
from manyview.foundation.vocabulary import NONE, Words, with_words

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features


class Measure(Protocol):
    """A protocol of evaluation: a frozen dataclass of settings."""

    def check(self, splits: Splits) -> None:
        """Raises DataError for data that it cannot work on, before anything is computed."""

    def measure(self, features: Features, split: str) -> Report:
        """What it finds on `val` or `test`; only training images are learnt from, and none of that split chosen by."""


Table = Mapping[str, Callable[..., Measure]]

ON_ONE_SET: Table = {
    "classify": Classify,
    "knn": Knn,
    "linear": Linear,
    "linear_probe": Linear,
    "linear_sgd": LinearSgd,
    "finetune": Finetune,
    "fewshot": FewShotTasks,
    "robustness": Robustness,
    "adversarial": Adversarial,
    "calibration": Calibration,
    "invariance": Invariance,
    "awareness": Awareness,
    "aggregate": Aggregate,
}


def parse_protocol(text: str, where: str, table: Table = ON_ONE_SET, words: Words = NONE) -> Measure:
    """A protocol from its call. Raises RecipeError for an unknown name or argument."""
    call, known = parse_call(text, where), words.beside("PROTOCOLS", table)
    if call.name not in known:
        raise RecipeError(f"{where}: {unknown('protocol', call.name, known, own=words.own('PROTOCOLS'))}")
    return bind(known[call.name], call, where, **with_words(known[call.name], words))
