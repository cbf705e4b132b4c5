"""What passes between branches and relations: a port when a recipe is checked, a reading when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from torch import Tensor

from manyview.errors import RecipeError
from manyview.foundation.words import counted
from manyview.views.ops.op import Op
from manyview.views.ops.soften import Soften


@dataclass(frozen=True)
class Port:
    """The shape of one readout that a relation asks for, known before any image is read.

    text: the readout as the recipe writes it, `logits(a)`. dim: columns. members: rows an image
    (m of an orbit or `count`; row i*m + t is member t of image i). classes: of the data set. ops: the view's own ops,
    by the names of their params. constant: no gradient reaches it, since it is stopped or an EMA's. mixed: what mixed
    its rows with one another, see `views.plan.mixings_of`, and the view of a `mix(…)`.
    """

    text: str
    dim: int
    members: int = 1
    classes: int = 0
    ops: Mapping[str, Op] = field(default_factory=dict)
    constant: bool = False
    mixed: tuple[tuple[str, ...], ...] = ()

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Reading:
    """One readout of one view, for the batch at hand.

    value: float32 [B*members, dim]. target: labels [B*members], soft targets [B*members, classes],
    or None where the view has none. params: op name -> {name: tensor [B, …]}, as drawn. index: of the images, int64
    [B], on the CPU; None where the step was not given it.
    """

    value: Tensor
    target: Tensor | None = None
    params: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    members: int = 1
    index: Tensor | None = None


def members_of(reading: Reading) -> list[Tensor]:
    """The rows of each member of a family, [B, dim]; of a single view its own."""
    return [reading.value[t :: reading.members] for t in range(reading.members)]


class FitError(RecipeError):
    """Readouts that do not fit their relation, by their rows or columns."""


@runtime_checkable
class HasState(Protocol):
    """A relation, or a module in one, whose buffers or weights move on after every update of the optimiser."""

    def after_step(self) -> None:
        """What a queue takes in, or what keeps prototypes of unit length."""


TRAITS = ("symmetric", "learns_from_labels", "whole_batch")
"""What a relation's class says of itself, by an attribute that is True: that it is the same with its views exchanged,
so that `swapped=True` would double it; that it needs the label of every image; that it compares the images of a batch
with one another, so that the mean over parts of it is another loss."""


def choices_of(kind: type) -> Mapping[str, Mapping[str, Any]]:
    """Options of a relation that may be a call, as `threshold=flex(0.95)`: option -> name -> what the call makes.

    A relation's class says so by its attribute `choices`.
    """
    return getattr(kind, "choices", {})


def has(trait: str, kind: type) -> bool:
    """Whether a relation's class says so of itself, see `TRAITS`."""
    return bool(getattr(kind, trait, False))


def needs_labels(kind: type, options: Mapping[str, Any]) -> bool:
    """Whether a relation needs the label of every image: it learns from them, or an option's value asks for them.

    A class names such values by its attribute `labels_for`, as {"threshold": "right"}.
    """
    asked = getattr(kind, "labels_for", {})
    return has("learns_from_labels", kind) or any(options.get(key) == value for key, value in asked.items())


def hints_of(kind: type) -> dict[str, Any]:
    """The type hints of a relation's arguments. Raises NameError for a name that its module does not have."""
    return get_type_hints(kind.__init__)  # type: ignore[misc]


def is_port(hint: Any) -> bool:
    """Whether an argument of this type hint is a readout: `Port`, or `Port | None`."""
    return not are_ports(hint) and Port in (hint, *get_args(hint))


def are_ports(hint: Any) -> bool:
    """Whether an argument of this type hint is a branch, `toward=teacher`: its readouts, as many as are positional."""
    return any(get_origin(each) is tuple and get_args(each)[:1] == (Port,) for each in (hint, *get_args(hint)))


def check_classifies(port: Port, columns: int | None = None) -> None:
    """Raises FitError unless the port has one column a class (or `columns`)."""
    wanted = port.classes if columns is None else columns
    if port.dim != wanted:
        raise FitError(f"{port.text} has {counted(port.dim, 'column')} where {wanted} are needed; change its head")


def check_alike(*ports: Port) -> None:
    """Raises FitError unless all ports have the same number of rows an image, and of columns."""
    first = ports[0]
    for port in ports[1:]:
        if port.members != first.members:
            raise FitError(
                f"{first.text} has {counted(first.members, 'row')} an image and {port.text} has {port.members}; "
                f"relate views with the same number of members"
            )
    for port in ports[1:]:
        if port.dim != first.dim:
            raise FitError(
                f"{first.text} has {counted(first.dim, 'column')} and {port.text} has {port.dim}; "
                f"relate readouts of the same width"
            )


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises ValueError for labels outside [0, classes). On a GPU, where looking means waiting, it does not look."""
    if labels.device.type == "cpu" and labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"label {int(wrong)} is outside [0, {classes})")


def check_one_label(relation: str, *ports: Port) -> None:
    """Raises FitError for a view that softens its label, where the relation needs a label and no soft target."""
    for port in ports:
        if any(isinstance(op, Soften) for op in port.ops.values()):
            raise FitError(f"{port.text}: its view softens the label; {relation} needs one a row")


def check_single(*ports: Port) -> None:
    """Raises FitError for a family of views where one row an image is needed."""
    for port in ports:
        if port.members > 1:
            raise FitError(f"{port.text} has {port.members} rows an image; name one member, as in r.0")


def same_shape(*tensors: Tensor) -> None:
    """Raises ValueError unless all tensors have one shape [B, D]; for the pure functions."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if tensors[0].ndim != 2 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"expected tensors of one shape [B, D], got {', '.join(map(str, shapes))}")
