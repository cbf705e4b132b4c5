"""The plan of views: what a recipe says of them, checked, with their ops built and whose draws each op uses.

A view is made from an image of a stream (`image` is the labelled one) or from a view declared above it.
"""

from __future__ import annotations

import keyword
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from manyview.errors import RecipeError, unknown
from manyview.foundation.grammar import bind, parse_pipeline
from manyview.foundation.vocabulary import NONE, Words, with_words
from manyview.views.draws import Draws
from manyview.views.ops import OPS
from manyview.views.ops.crop import CenterCrop, Resize
from manyview.views.ops.mix import MIXING
from manyview.views.ops.op import TURNS, LooksBack, Op, turnable
from manyview.views.ops.orbit import ORBITS, orbit_size
from manyview.views.streams import IMAGE, STREAMS

TEST = "test"  # the view that evaluation looks at; nothing in it is drawn
AGAIN = "_again"  # in the name of an op that stands in a view for the second time


class ViewSpec(BaseModel):
    """A view as a recipe writes it: {from, make}, or {like}, or {like, from}, and what its other keys say beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    source: str | None = Field(None, alias="from")
    make: str | None = None
    like: str | None = None
    orbit: str | None = None
    count: int | None = Field(None, ge=1, le=TURNS, strict=True)
    same: tuple[str, ...] = ()
    anti: tuple[str, ...] = ()
    alternate: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedOp:
    """An op in its place.

    owner: the view and op name whose draws it uses, its own unless `same` or `anti` says otherwise. turned: whether it
    takes the opposite of them. alternates: whether every other epoch, from the second on, takes the opposite of what
    the epoch before it drew.
    """

    name: str
    op: Op
    owner: tuple[str, str]
    turned: bool = False
    alternates: bool = False

    def draws(self, seed: int, epoch: int, index: NDArray[np.int64], member: int | None = None) -> Draws:
        """What it draws from for images [B]; for one member of a view with a count."""
        view, name = self.owner
        second = int(self.alternates and epoch % 2 == 1)
        draws = Draws(seed, epoch - second, index, view if member is None else f"{view}.{member}", name)
        return draws.opposite(turnable(self.op)) if self.turned != bool(second) else draws


@dataclass(frozen=True)
class PlannedView:
    """A view ready to be drawn. source: a stream, a view, or a member. members: m of a family; None for one image."""

    name: str
    source: str
    ops: tuple[PlannedOp, ...]
    orbit: str | None = None
    count: int | None = None

    @property
    def members(self) -> int:
        """Rows an image: m of an orbit or count, else 1."""
        return orbit_size(self.orbit) if self.orbit else self.count or 1

    @property
    def is_family(self) -> bool:
        """Whether its members can be named, as in `r.0`."""
        return self.orbit is not None or self.count is not None

    def output_size(self, sizes: Tensor) -> Tensor:
        """Heights and widths [B, 2] after its ops, from those of its source."""
        for planned in self.ops:
            sizes = planned.op.output_size(sizes)
        return sizes


def plan_views(specs: Mapping[str, ViewSpec], words: Words = NONE) -> dict[str, PlannedView]:
    """Views in order of declaration, ops built and checked. Raises RecipeError naming the view."""
    planned: dict[str, PlannedView] = {}
    for name, spec in specs.items():
        planned[name] = _plan_view(name, spec, specs, planned, words)
    if not any(name != TEST for name in planned):
        raise RecipeError("views: at least one view is needed, such as a: {from: image, make: flip(0.5)}")
    return planned


def _plan_view(
    name: str, spec: ViewSpec, specs: Mapping[str, ViewSpec], above: Mapping[str, PlannedView], words: Words
) -> PlannedView:
    where = f"views.{name}"
    if not name.isidentifier() or keyword.iskeyword(name) or name in STREAMS:
        taken = name if name in STREAMS else IMAGE
        raise RecipeError(f"{where}: a view's name is a word other than '{taken}', got '{name}'")
    if spec.like is not None:
        if spec.make is not None or spec.orbit is not None or spec.count is not None:
            raise RecipeError(f"{where}: 'like' takes its ops from {spec.like}; drop make, orbit and count")
        if spec.like not in above:
            raise RecipeError(f"{where}.like: {_not_above(spec.like, name, specs, above)}")
        model = above[spec.like]
        ops = tuple(PlannedOp(op.name, op.op, (name, op.name)) for op in model.ops)
        if spec.source is not None:
            _check_source(spec.source, where, specs, above)
        view = PlannedView(name, spec.source or model.source, ops, model.orbit, model.count)
    else:
        if spec.source is None:
            raise RecipeError(f"{where}: give 'from' (image, unlabeled, or a view above) or 'like'")
        if spec.orbit is not None and spec.count is not None:
            raise RecipeError(f"{where}: an orbit fixes the number of its members; drop count")
        if spec.orbit is not None and spec.orbit not in ORBITS:
            raise RecipeError(f"{where}.orbit: {unknown('orbit', spec.orbit, ORBITS)}")
        _check_source(spec.source, where, specs, above)
        view = PlannedView(name, spec.source, _plan_ops(name, spec.make, words), spec.orbit, spec.count)
    view = _share_draws(view, spec, above, words)
    _check_ways(view, above)
    drawn = drawn_by(view)
    if name == TEST and (view.source != IMAGE or view.is_family or drawn):
        raise RecipeError(f"{where}: the test view draws nothing; make it from image with resize and center_crop")
    return view


def _plan_ops(view: str, make: str | None, words: Words) -> tuple[PlannedOp, ...]:
    where, known = f"views.{view}.make", words.beside("OPS", OPS)
    ops: list[PlannedOp] = []
    for call in parse_pipeline(make, where) if make is not None else []:
        if call.name not in known:
            raise RecipeError(f"{where}: {unknown('op', call.name, known, own=words.own('OPS'))}")
        earlier = sum(op.name.split(AGAIN)[0] == call.name for op in ops)
        name = call.name if not earlier else f"{call.name}{AGAIN}{earlier + 1 if earlier > 1 else ''}"
        kind = known[call.name]
        ops.append(PlannedOp(name, bind(kind, call, where, **with_words(kind, words)), (view, name)))
    return tuple(ops)


def _check_source(source: str, where: str, specs: Mapping[str, ViewSpec], above: Mapping[str, PlannedView]) -> None:
    base, dot, member = source.partition(".")
    if source in STREAMS:
        return
    if base in STREAMS:
        raise RecipeError(f"{where}.from: the source image has no members; write from: {base}")
    if base not in above or base == TEST:
        raise RecipeError(f"{where}.from: {_not_above(base, where.partition('.')[2], specs, above)}")
    if above[base].is_family and not member:
        raise RecipeError(f"{where}.from: '{base}' is a family of {above[base].members}; name a member, as in {base}.0")
    if dot:
        check_member(source, above, f"{where}.from")


def check_member(text: str, views: Mapping[str, PlannedView], where: str) -> None:
    """Raises RecipeError unless `r.0` names a member of a family."""
    base, _, member = text.partition(".")
    view = views[base]
    if not view.is_family:
        raise RecipeError(f"{where}: '{base}' is a single view and has no member '{text}'")
    if not member.isdecimal() or str(int(member)) != member or int(member) >= view.members:
        raise RecipeError(f"{where}: '{base}' has members {base}.0 to {base}.{view.members - 1}, not '{text}'")


def _not_above(name: str, own: str, specs: Mapping[str, ViewSpec], above: Mapping[str, PlannedView]) -> str:
    if name == own:
        return "a view cannot derive from itself"
    if name == TEST:
        return f"'{TEST}' is what evaluation looks at; no view derives from it"
    if name in specs and name not in above:
        return f"'{name}' is declared below; a view derives from one above it"
    return unknown("view", name, [*STREAMS, *(view for view in above if view != TEST)])


def _check_ways(view: PlannedView, above: Mapping[str, PlannedView]) -> None:
    """Raises RecipeError where an op looks back at ops that it cannot stand behind."""
    for at, planned in enumerate(view.ops):
        if not isinstance(planned.op, LooksBack):
            continue
        where = f"views.{view.name}.make: {planned.name}"
        chain = _chain({**above, view.name: view}, view.name)
        if turned := next((each.name for each in chain[:-1] if each.orbit), None):
            raise RecipeError(
                f"{where} looks back at all that was drawn, which '{turned}' turns; put it into '{turned}'"
            )
        try:
            planned.op.check_way(
                [each.op for source in chain[:-1] for each in source.ops] + [each.op for each in view.ops[:at]]
            )
        except ValueError as error:
            raise RecipeError(f"{where}: {error}") from None


def _share_draws(view: PlannedView, spec: ViewSpec, above: Mapping[str, PlannedView], words: Words) -> PlannedView:
    """Points the ops in `same` and `anti` at another view's draws: `a.flip`; `flip` alone means the view it is like.

    Those in `alternate` are its own, and change sides with the epochs.
    """
    ops, shared = {op.name: op for op in view.ops}, set[str]()
    for key, text in [*(("same", text) for text in spec.same), *(("anti", text) for text in spec.anti)]:
        where = f"views.{view.name}.{key}"
        other, _, name = text.rpartition(".")
        other = other or spec.like or ""
        if not other:
            raise RecipeError(f"{where}: say whose draws '{text}' shares, as in a.{text}")
        if other not in above:
            raise RecipeError(f"{where}: {unknown('view', other, above)}")
        theirs = {op.name: op for op in above[other].ops}
        for side, named in ((view.name, ops), (other, theirs)):
            if name not in named:
                raise RecipeError(f"{where}: view '{side}' has no op '{name}'; ops: {', '.join(named) or 'none'}")
        if ops[name].op != theirs[name].op:
            raise RecipeError(f"{where}: '{name}' has other arguments in '{view.name}' than in '{other}'")
        own, its = (stream_of({**above, view.name: view}, each) for each in (view.name, other))
        if own != its:
            raise RecipeError(f"{where}: '{view.name}' is of stream '{own}' and '{other}' of '{its}', of unlike images")
        if view.count != above[other].count:
            raise RecipeError(f"{where}: a view with a count draws for each member; share draws with one of that count")
        if name in shared:
            raise RecipeError(f"{where}: '{name}' is told twice whose draws it shares; once is enough")
        if key == "anti":
            _check_turnable(ops[name], where, words)
        shared.add(name)
        its_op = theirs[name]
        ops[name] = replace(its_op, op=ops[name].op, turned=its_op.turned ^ (key == "anti"))
    for name in spec.alternate:
        where = f"views.{view.name}.alternate"
        if name not in ops:
            raise RecipeError(f"{where}: view '{view.name}' has no op '{name}'; ops: {', '.join(ops) or 'none'}")
        if name in shared:
            raise RecipeError(
                f"{where}: '{name}' is told twice; what 'same' or 'anti' names alternates where that does"
            )
        _check_turnable(ops[name], where, words)
        shared.add(name)
        ops[name] = replace(ops[name], alternates=True)
    return replace(view, ops=tuple(ops.values()))


def _check_turnable(planned: PlannedOp, where: str, words: Words) -> None:
    if not turnable(planned.op):
        can = [each for each, kind in words.beside("OPS", OPS).items() if turnable(kind)]
        raise RecipeError(
            f"{where}: '{planned.name}' draws nothing that has an opposite; ops that do: {', '.join(can)}"
        )


def drawn_by(view: PlannedView) -> list[str]:
    """Its ops that may draw: all but those which are known to draw nothing."""
    return [op.name for op in view.ops if not isinstance(op.op, (Resize, CenterCrop))]


def drawn_on_the_way(plan: Mapping[str, PlannedView], name: str) -> list[str]:
    """Those of a view, or of a member such as `r.0`, and of the views it derives from."""
    return [op for view in _chain(plan, name) for op in drawn_by(view)]


def mixes(plan: Mapping[str, PlannedView]) -> bool:
    """Whether some view mixes the images of a batch, so that what an image looks like depends on the others."""
    return any(isinstance(planned.op, MIXING) for view in plan.values() for planned in view.ops)


def mixings_of(plan: Mapping[str, PlannedView], name: str) -> tuple[tuple[str, ...], ...]:
    """What mixed the images of a view, or of a member such as `r.0`, from the image on: whose draws each op uses.

    Views with the same ones show the same images, mixed alike.
    """
    base, _, member = name.partition(".")
    view = plan[base]
    above = () if view.source in STREAMS else mixings_of(plan, view.source)
    own = [op.owner for op in view.ops if isinstance(op.op, MIXING)]
    return (*above, *((*owner, member) if view.count else owner for owner in own))


def fixed_size(plan: Mapping[str, PlannedView], name: str) -> tuple[int, int] | None:
    """Height and width of a view if its ops fix them whatever the image's, else None."""
    sizes = []
    for probe in ((61, 64), (133, 128)):
        size = torch.tensor([probe])
        for view in _chain(plan, name):
            size = view.output_size(size)
        sizes.append((int(size[0, 0]), int(size[0, 1])))
    return sizes[0] if sizes[0] == sizes[1] else None


def _chain(plan: Mapping[str, PlannedView], name: str) -> list[PlannedView]:
    """The views from the image to this one."""
    view = plan[name.partition(".")[0]]
    return [view] if view.source in STREAMS else [*_chain(plan, view.source), view]


def stream_of(plan: Mapping[str, PlannedView], name: str) -> str:
    """The stream whose images a view, or a member such as `r.0`, is made of."""
    return _chain(plan, name)[0].source


def of_stream(plan: Mapping[str, PlannedView], stream: str) -> dict[str, PlannedView]:
    """The views that are made of a stream's images, in order."""
    return {name: view for name, view in plan.items() if stream_of(plan, name) == stream}


def usual_test_view(size: tuple[int, int], share: float = 1.0, squash: bool = False) -> PlannedView:
    """The shorter side resized and the centre, `share` of it, cut out; sizes that are not square are resized to.

    squash: whether both sides are resized instead, whatever shape that gives, as timm calls it.
    """
    height, width = size
    ops: list[Op] = [Resize(round(height / share)), CenterCrop(height)] if height == width else [Resize(size)]
    if squash:
        ops = [Resize((round(height / share), round(width / share))), CenterCrop(size)]
    return PlannedView(TEST, IMAGE, tuple(PlannedOp(f"test_{n}", op, (TEST, f"{n}")) for n, op in enumerate(ops)))


def with_sources(plan: Mapping[str, PlannedView], wanted: Collection[str]) -> list[str]:
    """The views to render, in order, so that all wanted ones (or their members) can be made."""
    needed = {name.partition(".")[0] for name in wanted}
    for view in reversed(list(plan.values())):
        if view.name in needed and view.source not in STREAMS:
            needed.add(view.source.partition(".")[0])
    return [name for name in plan if name in needed]
