"""What `evaluate:` and `manyview eval` may name, with their settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from manyview.augment.op import check_whole
from manyview.errors import RecipeError, unknown
from manyview.evaluate.linear import METRICS
from manyview.grammar import bind, parse_call


@dataclass(frozen=True)
class Classify:
    """Accuracy of the classifier the recipe trained: top-1, top-5, class mean, loss; for SLA also aggregated."""


@dataclass(frozen=True)
class Knn:
    """Weighted k-nearest-neighbour accuracy of the backbone's features, with the training images as the bank."""

    k: int = 200
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_whole("k", self.k)
        if not isinstance(self.temperature, (int, float)) or not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature!r}")


@dataclass(frozen=True)
class Linear:
    """Accuracy of logistic regression on the backbone's features; `linear_probe` is the same.

    One of 45 penalties is chosen by the metric, `top1` or `class_mean`: for test on val, then all of train and val is
    fitted; for val, or without a val, on a tenth of train that is held out, then all of train is fitted. Measured when
    a run has ended.
    """

    metric: str = "top1"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(unknown("metric", str(self.metric), METRICS))


Protocol = Classify | Knn | Linear
PROTOCOLS: dict[str, Callable[..., Protocol]] = {
    "classify": Classify,
    "knn": Knn,
    "linear": Linear,
    "linear_probe": Linear,
}


def parse_protocols(texts: Sequence[str], where: str = "evaluate") -> list[Protocol]:
    """Protocols from their calls. Raises RecipeError for unknown names and arguments."""
    protocols: list[Protocol] = []
    for number, text in enumerate(texts):
        call = parse_call(text, f"{where}.{number}")
        if call.name not in PROTOCOLS:
            raise RecipeError(f"{where}.{number}: {unknown('protocol', call.name, PROTOCOLS)}")
        protocols.append(bind(PROTOCOLS[call.name], call, f"{where}.{number}"))
    return protocols


def measure_names(protocols: Sequence[Protocol]) -> dict[Protocol, str]:
    """Each protocol once, with the name of its measure: `knn`, or of several `knn(k=1)`, by what sets them apart."""
    once = list(dict.fromkeys(protocols))
    names: dict[Protocol, str] = {}
    for protocol in once:
        alike = [other for other in once if type(other) is type(protocol)]
        apart = [f.name for f in fields(protocol) if len({getattr(other, f.name) for other in alike}) > 1]
        settings = ", ".join(f"{name}={getattr(protocol, name)}" for name in apart)
        kind = next(name for name, factory in PROTOCOLS.items() if factory is type(protocol))
        names[protocol] = f"{kind}({settings})" if settings else kind
    return names


def with_own_settings(texts: Sequence[str], own: Sequence[str]) -> list[str]:
    """The calls, a bare `knn` standing for those of that name in a recipe's own `evaluate`, where it has any."""
    return [call for text in texts for call in [each for each in own if each.partition("(")[0] == text] or [text]]
