"""From a line of `relations:` to a plan: which readouts it reads, its options, its weight, its name.

cosine(p(a), toward=stop(z(b)), weight=0.5)
-> reads [online.p(a)], toward = stop(online.z(b)), weight 0.5
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from torch import nn

from manyview.branches.spec import BranchSpec
from manyview.errors import RecipeError, reason, unknown
from manyview.foundation.grammar import Call, Name, bind, check_arguments, parse_call
from manyview.foundation.vocabulary import NONE, Words, own_fault
from manyview.foundation.words import counted
from manyview.recipe.looking_on import check_that_they_look_on, looks_on
from manyview.relations import RELATIONS, FitError, Port
from manyview.relations.reading import are_ports, choices_of, has, hints_of, is_port, needs_labels
from manyview.relations.weight import SCHEDULES, Weight
from manyview.views.ops.mix import MIXING
from manyview.views.plan import TEST, PlannedView, check_member, mixings_of

T = TypeVar("T")


@dataclass(frozen=True)
class Mix:
    """The function `mix(…, like=a)`: rows are mixed with the partners and shares that op of view `like` drew."""

    like: str
    op: str


@dataclass(frozen=True)
class Read:
    """A readout of a view: `functions` are applied to it, innermost first (`stop`, `aggregate`, a `Mix`).

    qualified: whether the recipe names the branch, as in `teacher.z(b)`.
    """

    branch: str
    name: str
    view: str
    functions: tuple[str | Mix, ...] = ()
    qualified: bool = field(default=False, compare=False)

    @property
    def views(self) -> tuple[str, ...]:
        """The views that must be drawn for it: its own, and those it is mixed like."""
        return (self.view, *(function.like for function in self.functions if isinstance(function, Mix)))

    def __str__(self) -> str:
        text = f"{self.branch}.{self.name}({self.view})" if self.qualified else f"{self.name}({self.view})"
        for function in self.functions:
            text = f"mix({text}, like={function.like})" if isinstance(function, Mix) else f"{function}({text})"
        return text


@dataclass(frozen=True)
class Arguments:
    """The readouts that a relation is called with; under the name of a branch, `toward=teacher`, several."""

    reads: tuple[Read, ...]
    named_reads: dict[str, Read | tuple[Read, ...]]

    @property
    def all_reads(self) -> tuple[Read, ...]:
        """Positional and named readouts."""
        return (*self.reads, *(read for reads in self._named for read in reads))

    @property
    def named_of_one_view(self) -> bool:
        """Whether a name has one view's readouts, `where=logits(a)`, and so another's with views exchanged."""
        return any(len({view for read in reads for view in read.views}) == 1 for reads in self._named)

    @property
    def _named(self) -> list[tuple[Read, ...]]:
        return [(read,) if isinstance(read, Read) else read for read in self.named_reads.values()]

    def each(self, make: Callable[[Read], T]) -> tuple[list[T], dict[str, T | tuple[T, ...]]]:
        """What is made of each readout, positional and named, as the relation is called with it."""
        named: dict[str, T | tuple[T, ...]] = {
            name: make(read) if isinstance(read, Read) else tuple(make(one) for one in read)
            for name, read in self.named_reads.items()
        }
        return [make(read) for read in self.reads], named


@dataclass(frozen=True)
class RelationPlan:
    """One line of `relations:`, parsed and checked but for shapes.

    calls: what the relation is called with; twice, the second time with its two views exchanged, where `swapped`.
    looks_on: whether all that it trains are heads behind a stop (and nets of its own), so that nothing else is another
    for it.
    """

    name: str
    text: str
    factory: type[nn.Module]
    calls: tuple[Arguments, ...]
    options: dict[str, Any] = field(default_factory=dict)
    weight: Weight = field(default_factory=Weight)
    looks_on: bool = False

    @property
    def reads(self) -> tuple[Read, ...]:
        """Positional readouts of the first call."""
        return self.calls[0].reads

    @property
    def named_reads(self) -> dict[str, Read | tuple[Read, ...]]:
        """Named readouts of the first call."""
        return self.calls[0].named_reads

    @property
    def all_reads(self) -> tuple[Read, ...]:
        """All readouts of all calls."""
        return tuple(read for call in self.calls for read in call.all_reads)

    @property
    def needs_labels(self) -> bool:
        """Whether it needs the label of every image."""
        return needs_labels(self.factory, self.options)


FUNCTIONS = {
    "aggregate": "the mean over an orbit of its joint logits (SLA)",
    "mix": "`mix(h(b), like=a)`: rows mixed as the images of view `a` were (Tied-mixup)",
    "stop": "no gradient",
}


def plan_relations(
    texts: Sequence[str], branches: Mapping[str, BranchSpec], views: Mapping[str, PlannedView], words: Words = NONE
) -> list[RelationPlan]:
    """The plans of all lines, with names made unique. Raises RecipeError naming the line."""
    plans: list[RelationPlan] = []
    known = words.beside("RELATIONS", RELATIONS)
    for number, text in enumerate(texts):
        where = f"relations.{number}"
        call = parse_call(text, where)
        if call.name not in known:
            raise RecipeError(f"{where}: {unknown('relation', call.name, known, own=words.own('RELATIONS'))}")
        factory = known[call.name]
        options = dict(call.kwargs)
        weight = parse_weight(options.pop("weight", 1.0), where)
        swapped = options.pop("swapped", False)
        hints = hints_of(factory)
        options = {key: _chosen(factory, key, value, where) for key, value in options.items()}
        options = {
            key: _of_branch(value, hints.get(key), call.args, f"{where}: {call.name}: {key}", branches)
            for key, value in options.items()
        }
        parse = partial(_parse_read, where=where, branches=branches, views=views)
        calls = [_arguments(call.args, options, parse)]
        _check_frozen(calls[0].reads, branches, has("learns_from_labels", factory), where)
        literal = {key: value for key, value in options.items() if not _is_read(value)}
        for key, value in literal.items():
            if isinstance(value, Name):
                raise RecipeError(f"{where}: {call.name}: put quotes round {key}='{value}'")
        check_arguments(factory, Call(call.name, call.args, options), where)
        _check_kinds(factory, call.name, options, where)
        if two := _swapped_views(factory, calls[0], swapped, f"{where}: {call.name}"):
            exchanged = {key: _exchanged(value, two) for key, value in options.items()}
            calls.append(_arguments([_exchanged(value, two) for value in call.args], exchanged, parse))
        name = unique_name(call.name, [plan.name for plan in plans])
        looks = looks_on([read for each in calls for read in each.all_reads], branches, where)
        plans.append(RelationPlan(name, str(text).strip(), factory, tuple(calls), literal, weight, looks))
    if not plans:
        raise RecipeError("relations: at least one relation is needed, such as cross_entropy(logits(a))")
    check_that_they_look_on(((plan.all_reads, plan.looks_on) for plan in plans), branches)
    return plans


def _arguments(args: Sequence[Any], options: Mapping[str, Any], parse: Callable[[Any], Read]) -> Arguments:
    named = {
        key: tuple(parse(one) for one in value) if isinstance(value, tuple) else parse(value)
        for key, value in options.items()
        if _is_read(value)
    }
    return Arguments(tuple(parse(value) for value in args), named)


def _is_read(value: Any) -> bool:
    return isinstance(value, Call) or (isinstance(value, tuple) and any(isinstance(one, Call) for one in value))


def _of_branch(value: Any, hint: Any, reads: Sequence[Any], where: str, branches: Mapping[str, BranchSpec]) -> Any:
    """`toward=teacher` as the readouts that stand for it: the positional ones, of that branch; else the value."""
    if not are_ports(hint) or value is None:
        return value
    if not isinstance(value, Name):
        raise RecipeError(f"{where} names a branch, as in toward=teacher, got {value}")
    if value.text not in branches:
        raise RecipeError(f"{where}: {unknown('branch', value.text, branches, 'branches')}")
    return tuple(
        Call(f"{value.text}.{read.name.rpartition('.')[2]}", read.args) for read in reads if isinstance(read, Call)
    )


def _chosen(factory: type[nn.Module], key: str, value: Any, where: str) -> Any:
    """An option's value; a call that the relation knows for it, as `threshold=flex(0.95)`, is what the call makes.

    A bare name, `threshold=free`, is a call without arguments.
    """
    known = choices_of(factory).get(key)
    value = Call(value.text) if known is not None and isinstance(value, Name) else value
    if known is None or not isinstance(value, Call):
        return value
    if value.name not in known:
        raise RecipeError(f"{where}: {unknown(key, value.name, known)}, or a number")
    return bind(known[value.name], value, f"{where}.{key}")


def _swapped_views(factory: type[nn.Module], arguments: Arguments, swapped: Any, where: str) -> dict[str, str]:
    """With `swapped=True` the line's two views, each with the one that takes its place; without it nothing."""
    if not isinstance(swapped, bool):
        shown = swapped if isinstance(swapped, (Call, Name)) else repr(swapped)
        raise RecipeError(f"{where}: swapped is True or False, got {shown}")
    if not swapped:
        return {}
    views = list(dict.fromkeys(view for read in arguments.all_reads for view in read.views))
    if len(views) != 2:
        raise RecipeError(f"{where}: swapped=True exchanges two views; this line reads {', '.join(views)}")
    if has("symmetric", factory) and not arguments.named_of_one_view:
        raise RecipeError(
            f"{where}: with its views exchanged this line is the same; drop swapped=True, or double the weight"
        )
    return {views[0]: views[1], views[1]: views[0]}


def _exchanged(value: Any, views: Mapping[str, str]) -> Any:
    """A readout as it is written, with views put in the place of others."""
    if isinstance(value, Name):
        return Name(views.get(value.text, value.text))
    if isinstance(value, tuple):
        return tuple(_exchanged(each, views) for each in value)
    if isinstance(value, Call):
        kwargs = {key: _exchanged(each, views) for key, each in value.kwargs.items()}
        return Call(value.name, tuple(_exchanged(each, views) for each in value.args), kwargs)
    return value


def _check_frozen(reads: Sequence[Read], branches: Mapping[str, BranchSpec], labels: bool, where: str) -> None:
    """Raises RecipeError where a line asks a frozen branch to learn: from labels, or what no other readout does."""
    still = [read for read in reads if branches[read.branch].frozen is not None]
    if still and (labels or len(still) == len(reads)):
        raise RecipeError(
            f"{where}: {still[0]} is frozen, and this line would train it; what learns comes first, as in "
            f"distill(logits({still[0].view}), toward={still[0]})"
        )


def _check_kinds(factory: type[nn.Module], name: str, options: Mapping[str, Any], where: str) -> None:
    """Raises RecipeError where a readout is given for a plain value, or the other way round."""
    for key, hint in hints_of(factory).items():
        if key in options and is_port(hint) != isinstance(options[key], Call):
            wanted = "a readout such as h(a)" if is_port(hint) else "a plain value"
            raise RecipeError(f"{where}: {name}: {key} is {wanted}, got {options[key]}")


def unique_name(name: str, taken: Collection[str]) -> str:
    """The name, or name_2, name_3, … where it is taken."""
    return next(n for n in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 2))) if n not in taken)


def parse_weight(value: Any, where: str) -> Weight:
    """`20`, `-1`, or `warmup(20)` and its like. Raises RecipeError for anything else."""
    if isinstance(value, Call):
        if value.name not in SCHEDULES:
            raise RecipeError(f"{where}: {unknown('weight schedule', value.name, SCHEDULES)}")
        return bind(Weight, value, f"{where}.weight", schedule=value.name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        shown = value if isinstance(value, Name) else repr(value)
        raise RecipeError(f"{where}: weight is a number or a schedule such as warmup(20), got {shown}")
    return bind(Weight, Call("weight", (value,)), where)


def _parse_read(value: Any, where: str, branches: Mapping[str, BranchSpec], views: Mapping[str, PlannedView]) -> Read:
    functions: list[str | Mix] = []
    while isinstance(value, Call) and value.name in FUNCTIONS:
        functions.insert(0, _parse_function(value, where, views))
        value = value.args[0]
    if not isinstance(value, Call):
        raise RecipeError(f"{where}: expected a readout such as h(a), got {value}")
    if len(value.args) != 1 or value.kwargs or not isinstance(value.args[0], Name):
        raise RecipeError(f"{where}: a readout takes one view, as in {value.name}(a), got {value}")
    branch, _, name = value.name.rpartition(".")
    owners = [spec for spec in branches.values() if name in spec.readouts]
    if branch:
        if branch not in branches:
            raise RecipeError(f"{where}: {unknown('branch', branch, branches, 'branches')}")
        owners = [spec for spec in owners if spec.name == branch]
    else:
        owners = [spec for spec in owners if spec.learns]  # a teacher is always named
    if not owners:
        known = [readout for spec in branches.values() for readout in spec.readouts]
        raise RecipeError(f"{where}: {unknown('readout', value.name, {*known, *FUNCTIONS})}")
    if len(owners) > 1:
        raise RecipeError(f"{where}: say whose {name}, as in {owners[0].name}.{value}; {len(owners)} branches have it")
    view = value.args[0].text
    _check_view(view, views, where)
    return Read(owners[0].name, name, view, tuple(functions), bool(branch))


def _parse_function(call: Call, where: str, views: Mapping[str, PlannedView]) -> str | Mix:
    if call.name != "mix":
        if len(call.args) != 1 or call.kwargs:
            raise RecipeError(f"{where}: {call.name} takes one readout, got {call}")
        return call.name
    like = call.kwargs.get("like")
    if len(call.args) != 1 or set(call.kwargs) != {"like"} or not isinstance(like, Name):
        raise RecipeError(f"{where}: mix takes a readout and a view, as in mix(h(b), like=a), got {call}")
    _check_view(like.text, views, where)
    view = views[like.text.partition(".")[0]]
    mixing = [planned.name for planned in view.ops if isinstance(planned.op, MIXING)]
    if len(mixing) != 1:
        raise RecipeError(
            f"{where}: mix(…, like={like}): '{view.name}' must have one mixup or cutmix among its own ops, "
            f"has {' and '.join(mixing) or 'none'}"
        )
    return Mix(like.text, mixing[0])


def _check_view(view: str, views: Mapping[str, PlannedView], where: str) -> None:
    base = view.partition(".")[0]
    if base not in views or base == TEST:
        raise RecipeError(f"{where}: {unknown('view', base, [v for v in views if v != TEST])}")
    if base != view:
        check_member(view, views, where)


def make_port(
    read: Read,
    where: str,
    dims: Mapping[str, int],
    orbits: Mapping[str, PlannedView],
    spec: BranchSpec,
    views: Mapping[str, PlannedView],
    classes: int,
) -> Port:
    """The port of a readout. dims, orbits: of the branch's readouts, by name. Raises FitError naming `where`."""
    base, members, dim = read.view.partition(".")[0], rows_an_image(read.view, views), dims[read.name]
    if read.name in orbits and orbits[read.name].members != views[base].members:
        told = orbits[read.name]
        raise FitError(
            f"{where}: head '{read.name}' tells {told.members} members of '{told.name}' apart, "
            f"but '{base}' has {views[base].members}"
        )
    for function in read.functions:
        if isinstance(function, Mix) and rows_an_image(function.like, views) not in (1, members):
            raise FitError(
                f"{where}: '{function.like}' has {counted(rows_an_image(function.like, views), 'row')} an image and "
                f"{read.name}({read.view}) has {members}; name a member, as in like={function.like}.0"
            )
        if function == "aggregate":
            if members == 1 or dim % members:
                raise FitError(
                    f"{where}: aggregate needs joint logits of a family, a column a class and member; "
                    f"{read.name}({read.view}) has {counted(dim, 'column')} for {counted(members, 'member')}"
                )
            dim, members = dim // members, 1
    constant = "stop" in read.functions or not spec.learns
    ops = {planned.name: planned.op for planned in views[base].ops}
    rows_mixed = [("mix", each.like, each.op) for each in read.functions if isinstance(each, Mix)]
    mixed = (*mixings_of(views, read.view), *rows_mixed)
    return Port(str(read), dim, members, classes, ops, constant, mixed)


def rows_an_image(view: str, views: Mapping[str, PlannedView]) -> int:
    """Rows an image of a view, or of a member such as `r.0`."""
    base, _, member = view.partition(".")
    return 1 if member else views[base].members


def build_relation(plan: RelationPlan, ports: Mapping[Read, Port], where: str) -> nn.Module:
    """The relation of a line. Raises RecipeError naming `where`, a FitError for readouts that do not fit."""
    positional, named = plan.calls[0].each(lambda read: ports[read])
    try:
        return plan.factory(*positional, **plan.options, **named)
    except RecipeError as error:
        raise type(error)(f"{where}: {error}") from None
    except ValueError as error:
        raise RecipeError(f"{where}: {reason(error)}") from None
    except (TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise RecipeError(f"{where}: {own_fault(error) or reason(error)}") from None
