"""What `evaluate:` and `manyview eval` may name, with their settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manyview.augment.op import check_whole
from manyview.errors import RecipeError, unknown
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


Protocol = Classify | Knn
PROTOCOLS: dict[str, Callable[..., Protocol]] = {"classify": Classify, "knn": Knn}


def parse_protocols(texts: Sequence[str], where: str = "evaluate") -> list[Protocol]:
    """Protocols from their calls. Raises RecipeError for unknown names and arguments."""
    protocols: list[Protocol] = []
    for number, text in enumerate(texts):
        call = parse_call(text, f"{where}.{number}")
        if call.name not in PROTOCOLS:
            raise RecipeError(f"{where}.{number}: {unknown('protocol', call.name, PROTOCOLS)}")
        protocols.append(bind(PROTOCOLS[call.name], call, f"{where}.{number}"))
    return protocols
