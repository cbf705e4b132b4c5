"""What `evaluate:` and `manyview eval` may name, with their settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

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
from manyview.evaluate.report import Report
from manyview.evaluate.robustness import Robustness
from manyview.evaluate.sgd import LinearSgd
from manyview.evaluate.transfer import Transfer
from manyview.foundation.grammar import bind, parse_call

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features


class Measure(Protocol):
    """A protocol of evaluation: a frozen dataclass of settings."""

    def check(self, splits: Splits) -> None:
        """Raises DataError for data that it cannot work on, before anything is computed."""

    def measure(self, features: Features, split: str) -> Report:
        """What it finds on `val` or `test`; only training images are learnt from, and none of that split chosen by."""


PROTOCOLS: dict[str, Callable[..., Measure]] = {
    "classify": Classify,
    "knn": Knn,
    "linear": Linear,
    "linear_probe": Linear,
    "linear_sgd": LinearSgd,
    "finetune": Finetune,
    "fewshot": FewShotTasks,
    "transfer": Transfer,
    "robustness": Robustness,
    "adversarial": Adversarial,
    "calibration": Calibration,
    "invariance": Invariance,
    "awareness": Awareness,
    "aggregate": Aggregate,
}


def parse_protocols(texts: Sequence[str], where: str = "evaluate") -> list[Measure]:
    """Protocols from their calls. Raises RecipeError for unknown names and arguments."""
    return [parse_protocol(text, f"{where}.{number}") for number, text in enumerate(texts)]


def parse_protocol(text: str, where: str) -> Measure:
    """A protocol from its call. Raises RecipeError for an unknown name or argument."""
    call = parse_call(text, where)
    if call.name not in PROTOCOLS:
        raise RecipeError(f"{where}: {unknown('protocol', call.name, PROTOCOLS)}")
    return bind(PROTOCOLS[call.name], call, where)


def measure_names(protocols: Sequence[Measure]) -> dict[Measure, str]:
    """Each protocol once, with the name of its measure: `knn`, or of several `knn(k=1)`, by what sets them apart."""
    once = list(dict.fromkeys(protocols))
    names: dict[Measure, str] = {}
    for protocol in once:
        alike = [other for other in once if type(other) is type(protocol)]
        apart = [key for key in settings_of(protocol) if len({getattr(other, key) for other in alike}) > 1]
        names[protocol] = call_of(protocol, apart)
    return names


def call_of(protocol: Measure, keys: Sequence[str] | None = None) -> str:
    """The call that makes a protocol, with all its settings, or those named: `knn(k=200, temperature=0.1)`."""
    kind = next(name for name, factory in PROTOCOLS.items() if factory is type(protocol))
    told = [f"{key}={value!r}" for key, value in settings_of(protocol).items() if keys is None or key in keys]
    return f"{kind}({', '.join(told)})" if told else kind


def settings_of(protocol: Measure) -> dict[str, Any]:
    """A protocol's settings by name."""
    return {field.name: getattr(protocol, field.name) for field in fields(protocol)}  # type: ignore[arg-type]


def with_own_settings(texts: Sequence[str], own: Sequence[str]) -> list[str]:
    """The calls, a bare `knn` standing for those of that name in a recipe's own `evaluate`, where it has any."""
    return [call for text in texts for call in [each for each in own if each.partition("(")[0] == text] or [text]]
