"""A rehearsal of a recipe: its heads and relations built on torch's meta device, where nothing takes memory or time.

So arguments that they refuse are refused when the recipe is loaded, whatever its numbers. Whether readouts fit their
relation waits for the step, which knows the backbone's width and the number of classes; here both are guessed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from manyview.branches.heads import TAPS, Head, build_head
from manyview.branches.spec import CLASSIFIER, FEATURES, LOGITS, BranchSpec, source_of
from manyview.errors import ManyviewWarning, RecipeError, brief, warn
from manyview.foundation.vocabulary import NONE, Words, own_fault
from manyview.foundation.words import few
from manyview.recipe.readouts import Read, RelationPlan, build_relation, make_port
from manyview.relations import FitError, Port, Reading
from manyview.views.plan import PlannedView
from manyview.views.trial import try_ops

WIDTH, CLASSES, ROWS = 64, 10, 4


def rehearse(
    branches: Mapping[str, BranchSpec],
    relations: Sequence[RelationPlan],
    views: Mapping[str, PlannedView],
    words: Words = NONE,
    channels: int = 3,
) -> None:
    """Raises RecipeError, naming the place, for arguments that a head or a relation of the recipe does not take.

    Ops of one's own are tried on noise, of so many channels; their heads and relations on tensors without values.
    """
    try_ops(views, words, channels)
    own, random = words.own("RELATIONS").values(), list[str]()
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ManyviewWarning)  # the step gives them
        widths = dict.fromkeys(branches, WIDTH)
        shapes = {name: _shapes(spec.with_widths(widths), views) for name, spec in branches.items()}
        for number, plan in enumerate(relations):
            where = f"relations.{number}: {plan.text}"
            with contextlib.suppress(FitError):
                ports = {
                    read: make_port(read, where, *shapes[read.branch], branches[read.branch], views, CLASSES)
                    for read in plan.all_reads
                }
                relation = build_relation(plan, ports, where)
                if plan.factory in own:
                    with _Drawing() as drawing:
                        _check_loss(relation, plan, ports, where)
                    random += [f"{where}: forward draws at random, by {few(drawing.by)}"] if drawing.by else []
    for told in random:
        warn(f"{told}: the same batch has another loss each time; what is drawn of images is an op's, in a view")


@final
class _Drawing(TorchDispatchMode):
    """Notes, while it is entered, what draws by torch's own generators: their functions, in the order of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.by: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = f"torch.{func.overloadpacket.__name__}"
        if torch.Tag.nondeterministic_seeded in func.tags and name not in self.by:
            self.by.append(name)
        return func(*args, **(kwargs or {}))


def _shapes(spec: BranchSpec, views: Mapping[str, PlannedView]) -> tuple[dict[str, int], dict[str, PlannedView]]:
    """Columns of each readout of a branch, and the orbits that heads tell apart."""
    dims: dict[str, int] = {FEATURES: WIDTH}
    orbits: dict[str, PlannedView] = {}
    for head, call in {**spec.heads, LOGITS: spec.heads.get(LOGITS, CLASSIFIER)}.items():
        if call.name in TAPS:
            dims[head] = WIDTH
        else:
            where, inputs = f"branches.{spec.name}.{head}", dims[str(source_of(call)[0])]
            built = build_head(call, inputs, CLASSES, views, where, spec.words)
            dims[head] = built.width
            if call.name in spec.words.own("HEADS"):
                _check_width(built, inputs, f"{where}: {call.name}")
            if built.orbit is not None:
                orbits[head] = built.orbit
    return dims, orbits


def _check_width(head: Head, inputs: int, where: str) -> None:
    made = _tried(head.module, where, torch.empty(ROWS, inputs))
    if isinstance(made, Tensor) and made.shape != (ROWS, head.width):
        told = f"but the module makes {[*made.shape]} of {[ROWS, inputs]}"
        raise RecipeError(f"{where} builds (module, width of its output) with width {head.width}, {told}")


def _check_loss(relation: nn.Module, plan: RelationPlan, ports: Mapping[Read, Port], where: str) -> None:
    positional, named = plan.calls[0].each(lambda read: _reading(ports[read]))
    made = _tried(relation, where, *positional, **named)
    parts = made if isinstance(made, dict) else {"": made}
    odd = [value for value in parts.values() if not (isinstance(value, Tensor) and value.ndim == 0)]
    if made is not None and (odd or not parts):
        got = f"a tensor {[*odd[0].shape]}" if odd and isinstance(odd[0], Tensor) else f"{brief(made)}"
        raise RecipeError(f"{where}: forward gives a scalar, or a dict of named scalars, got {got}")


def _reading(port: Port) -> Reading:
    rows = ROWS * port.members
    return Reading(torch.empty(rows, port.dim), torch.empty(rows, dtype=torch.long), {}, port.members)


def _tried(module: nn.Module, where: str, *arguments: Any, **named: Any) -> Any:
    """What a module of one's own makes of tensors without values; None where it looks at values, or at drawn params.

    Raises RecipeError for names and kinds that do not exist, which are mistakes whatever the values.
    """
    try:
        return module(*arguments, **named)
    except (NameError, AttributeError, TypeError) as error:
        raise RecipeError(f"{where}: {own_fault(error) or error}") from None
    except Exception:
        return None
