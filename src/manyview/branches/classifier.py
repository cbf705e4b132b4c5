"""The classifier that a given network ends in: found where it is sure, told or refused where it may be another.

Sure is a linear layer whose output is what the network gives. What else gives one column a class (a convolution before
pooling, weights without a layer, a softmax behind the layer) is read as the feature h, below the recipe's own head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from manyview.branches.spec import LOGITS, BranchSpec
from manyview.errors import ManyviewError, warn
from manyview.foundation.grammar import Name
from manyview.foundation.words import counted

Called = tuple[str, nn.Module, Any]  # a layer with weights of its own, by its name, and what it gave
KNOWN = ("pooler_output", "logits", "last_hidden_state")  # what the outputs of Hugging Face's models are called


class GivenError(ManyviewError):
    """A network that was given, and cannot be trained as it stands."""


def named_parts(output: Any) -> Mapping[str, Any]:
    """What a network gave by name: a mapping, or an object with attributes of Hugging Face's names; else nothing."""
    if isinstance(output, Mapping):
        return output
    return {} if isinstance(output, Tensor) else {key: getattr(output, key) for key in KNOWN if hasattr(output, key)}


def scores_in(output: Any) -> Any:
    """What a network gave that may be class scores."""
    return output if isinstance(output, Tensor) else named_parts(output).get("logits")


def find_classifier(module: nn.Module, output: Any, called: Sequence[Called], classes: int, where: str) -> str | None:
    """The linear layer that gives the network's scores; of a network of one's own, only if they are of all classes.

    called: its layers, in the order of calls. Raises GivenError where timm's or torchvision's ends in another.
    """
    scores, told = scores_in(output), getattr(module, "num_classes", None)
    last = [(name, layer) for name, layer, gave in called if isinstance(layer, nn.Linear) and gave is scores]
    name, layer = last[-1] if last else ("", None)
    if layer is None or scores.ndim != 2:
        if isinstance(told, int) and told > 0 and hasattr(module, "reset_classifier"):
            raise GivenError(f"{where} ends in no linear layer that alone is its classifier; {without('')}")
        return None
    known = layer.out_features == told or is_torchvisions(module) or not isinstance(output, Tensor)
    return name if known or layer.out_features == classes else None


def doubt_of(
    module: nn.Module, output: Any, feature: Tensor, called: Sequence[Called], classes: int, where: str
) -> None:
    """Warns of what is read as the feature [B, D] and may be meant as class scores.

    Raises GivenError for a network of torchvision's whose classifier is a convolution of other classes.
    """
    name, layer, gave = called[-1] if called else ("", None, None)
    width, vectors = feature.shape[1], isinstance(output, Tensor) and output.ndim == 2
    linear = isinstance(layer, nn.Linear) and gave is output and vectors
    pointwise = isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.out_channels) == ((1, 1), width)
    if width == classes:
        warn(
            f"{where} gives {counted(classes, 'column')}, one a class, but not by a last linear layer, so it is read "
            f"as the feature h; a classifier that is to be trained as {LOGITS} gives plain scores, without a softmax, "
            "by an nn.Linear whose output is the network's"
        )
    elif pointwise and vectors and is_torchvisions(module):
        raise GivenError(
            f"{where} has a classifier of {counted(width, 'class')}, '{name}', which is no linear layer; put "
            f"nn.Identity() in its place, and the recipe's {LOGITS} follows"
        )
    elif classes and (linear or pointwise):
        kind, cure = ("linear layer", "give it") if linear else ("convolution", "end in an nn.Linear of")
        warn(
            f"{where} ends in the {kind} '{name}' of {counted(width, 'column')}, read as the feature h; if it is a "
            f"classifier, {cure} {classes} and it is trained as {LOGITS}"
        )


def check_classifier(layer: nn.Module, name: str, spec: BranchSpec, read: bool, classes: int, where: str) -> None:
    """Warns of a classifier that no relation reads. read: whether one does.

    Raises GivenError where the recipe has another head, or the labels are of other classes.
    """
    if not read:
        warn(f"{where} has the classifier '{name}', which no relation reads: it stays as it is, and h goes into it")
        return
    assert isinstance(layer, nn.Linear)
    head = spec.heads.get(LOGITS)
    plain = head is None or (
        head.name == "linear" and head.args in ((Name("h"),), (Name("h"), classes)) and not head.kwargs
    )
    if not plain:
        told = f"has a classifier, '{name}', and the recipe another, {LOGITS}: {head}"
        raise GivenError(f"{where} {told}; {without(name)}")
    if layer.out_features != classes:
        raise GivenError(
            f"{where} has a classifier of {counted(layer.out_features, 'class')}, '{name}', and there are {classes}; "
            f"model.reset_classifier({classes}) of timm, or model.{name} = nn.Linear(…, {classes}), gives it its own"
        )


def without(name: str) -> str:
    """How a network loses its classifier."""
    return f"take it out, with model.reset_classifier(0) of timm{f', or model.{name} = nn.Identity()' if name else ''}"


def is_torchvisions(module: nn.Module) -> bool:
    """Whether a network is of one of torchvision's classes, or of one that was made of it."""
    return any(kind.__module__.startswith("torchvision.models") for kind in type(module).__mro__)


__all__ = [
    "KNOWN",
    "Called",
    "GivenError",
    "check_classifier",
    "doubt_of",
    "find_classifier",
    "is_torchvisions",
    "named_parts",
    "scores_in",
    "without",
]
