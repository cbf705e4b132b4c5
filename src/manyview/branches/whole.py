"""A network of timm's with weights from outside, all of them, and with the classifier that they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from manyview.branches.fit import Fit, classifier_of, fit
from manyview.branches.spec import LOGITS
from manyview.branches.weights import Weights
from manyview.errors import RunError


def with_classifier(build: Callable[[int], Any], weights: Weights, spec: str) -> tuple[Any, Fit]:
    """The network with a classifier of as many classes as the weights have, 0 without, and what of them matched.

    build: makes the network from a number of classes. spec: what to call it. Of a run, its head `logits` is the
    classifier, where that is a linear layer on h. Raises RunError for weights of another architecture.
    """
    network = build(0)
    head = classifier_of(weights.state, network)
    state, place = dict(weights.state), (getattr(network, "pretrained_cfg", None) or {}).get("classifier", "fc")
    own = weights.heads.get(LOGITS, {})
    if weights.plain and set(own) == {"weight", "bias"} and isinstance(place, str):
        head = dict(own)
        state |= {f"{place}.{part}": value for part, value in own.items()}
    if "weight" in head:
        network = build(len(head["weight"]))
    return network, put(network, state, weights.source, spec)


def put(network: nn.Module, state: dict[str, Tensor], source: str, spec: str) -> Fit:
    """Gives a network all of its weights, in place. Raises RunError unless they are there, each in its shape."""
    found = fit(state, network)
    if wrong := found.misfit():
        raise RunError(found.refused(source, spec, wrong))
    network.load_state_dict(found.state, strict=False)  # an older checkpoint may lack BatchNorm's counters
    return found
