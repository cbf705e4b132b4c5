"""Views: named ways to make an image, from the source image or from a view declared above.

    sample_views   draws the parameters of every op of every view, a pure function of (seed, epoch, index)
    render_views   makes the pixels from images and parameters, a pure function of both

A family is a view of several members: the elements of an orbit, or `count` independent draws. Its rows keep the members
of one image together: row i*m + t is member t of image i; `r.0` names a member.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from manyview.errors import RecipeError, unknown
from manyview.foundation.grammar import bind, parse_pipeline
from manyview.views.draws import Draws
from manyview.views.engine.program import Lowered
from manyview.views.engine.render import Reduced, Source, is_levels, render, sizes_of, together
from manyview.views.ops import OPS, Op, Params
from manyview.views.ops.crop import CenterCrop, Crop, Resize
from manyview.views.ops.mix import MIXING, mix_target, on_rows
from manyview.views.ops.op import TURNS, as_float
from manyview.views.ops.orbit import ORBITS, orbit, orbit_size
from manyview.views.ops.part import ResizedPart, check_growth, in_parts

IMAGE = "image"
TEST = "test"  # the view that evaluation looks at; nothing in it is drawn


class ViewSpec(BaseModel):
    """A view as a recipe writes it: {from, make}, or {like}, with `orbit`, `count` and `same`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    source: str | None = Field(None, alias="from")
    make: str | None = None
    like: str | None = None
    orbit: str | None = None
    count: int | None = Field(None, ge=1, le=TURNS, strict=True)
    same: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedOp:
    """An op in its place. owner: the view and op name whose draws it uses, its own unless `same` says otherwise."""

    name: str
    op: Op
    owner: tuple[str, str]


@dataclass(frozen=True)
class PlannedView:
    """A view ready to be drawn. source: `image`, a view, or a member. members: m of a family; None for one image."""

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


@dataclass(frozen=True)
class View:
    """What a way to make an image made of a batch.

    images: uint8, or float in [0, 1], [B*members, C, h, w]. params: op name -> {name: [B*members, …]}.
    target: labels [B*members], soft targets [B*members, classes], or None without labels. mixed: whether images of the
    batch were mixed with one another, by an op of this view or of one above it.
    """

    images: Tensor
    params: dict[str, Params] = field(default_factory=dict)
    target: Tensor | None = None
    members: int = 1
    mixed: bool = False

    @property
    def pixels(self) -> Tensor:
        """Float in [0, 1], [B*members, C, h, w]."""
        return as_float(self.images)

    def labelled(self, labels: Tensor | None) -> View:
        """The view with the labels [B] of its images, unless it has a target of its own.

        Raises ValueError where images were mixed: then the labels had to be mixed with them.
        """
        if labels is None or self.target is not None:
            return self
        if self.mixed:
            raise ValueError("these views were mixed without labels; pass labels where the views are drawn")
        return replace(self, target=labels.repeat_interleave(self.members, dim=0))

    def moved(self, move: Callable[[Tensor], Tensor]) -> View:
        """The view with its images and target moved; params stay where they were drawn."""
        return replace(self, images=move(self.images), target=None if self.target is None else move(self.target))


def plan_views(specs: Mapping[str, ViewSpec]) -> dict[str, PlannedView]:
    """Views in order of declaration, ops built and checked. Raises RecipeError naming the view."""
    planned: dict[str, PlannedView] = {}
    for name, spec in specs.items():
        planned[name] = _plan_view(name, spec, specs, planned)
    if not any(name != TEST for name in planned):
        raise RecipeError("views: at least one view is needed, such as a: {from: image, make: flip(0.5)}")
    return planned


def _plan_view(
    name: str, spec: ViewSpec, specs: Mapping[str, ViewSpec], above: Mapping[str, PlannedView]
) -> PlannedView:
    where = f"views.{name}"
    if not name.isidentifier() or keyword.iskeyword(name) or name == IMAGE:
        raise RecipeError(f"{where}: a view's name is a word other than '{IMAGE}', got '{name}'")
    if spec.like is not None:
        if spec.source is not None or spec.make is not None or spec.orbit is not None or spec.count is not None:
            raise RecipeError(f"{where}: 'like' takes its ops from {spec.like}; drop from, make, orbit and count")
        if spec.like not in above:
            raise RecipeError(f"{where}.like: {_not_above(spec.like, name, specs, above)}")
        model = above[spec.like]
        ops = tuple(PlannedOp(op.name, op.op, (name, op.name)) for op in model.ops)
        view = PlannedView(name, model.source, ops, model.orbit, model.count)
    else:
        if spec.source is None:
            raise RecipeError(f"{where}: give 'from' (image, or a view above) or 'like'")
        if spec.orbit is not None and spec.count is not None:
            raise RecipeError(f"{where}: an orbit fixes the number of its members; drop count")
        if spec.orbit is not None and spec.orbit not in ORBITS:
            raise RecipeError(f"{where}.orbit: {unknown('orbit', spec.orbit, ORBITS)}")
        _check_source(spec.source, where, specs, above)
        view = PlannedView(name, spec.source, _plan_ops(name, spec.make), spec.orbit, spec.count)
    view = _share_draws(view, spec, above)
    drawn = [op.name for op in view.ops if not isinstance(op.op, (Resize, CenterCrop))]
    if name == TEST and (view.source != IMAGE or view.is_family or drawn):
        raise RecipeError(f"{where}: the test view draws nothing; make it from image with resize and center_crop")
    return view


def _plan_ops(view: str, make: str | None) -> tuple[PlannedOp, ...]:
    where = f"views.{view}.make"
    ops: list[PlannedOp] = []
    for call in parse_pipeline(make, where) if make is not None else []:
        if call.name not in OPS:
            raise RecipeError(f"{where}: {unknown('op', call.name, OPS)}")
        earlier = sum(op.name.split("_again")[0] == call.name for op in ops)
        name = call.name if not earlier else f"{call.name}_again{earlier + 1 if earlier > 1 else ''}"
        ops.append(PlannedOp(name, bind(OPS[call.name], call, where), (view, name)))
    return tuple(ops)


def _check_source(source: str, where: str, specs: Mapping[str, ViewSpec], above: Mapping[str, PlannedView]) -> None:
    base, dot, member = source.partition(".")
    if source == IMAGE:
        return
    if base == IMAGE:
        raise RecipeError(f"{where}.from: the source image has no members; write from: {IMAGE}")
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
    return unknown("view", name, [IMAGE, *(view for view in above if view != TEST)])


def _share_draws(view: PlannedView, spec: ViewSpec, above: Mapping[str, PlannedView]) -> PlannedView:
    """Points the ops in `same` at another view's draws: `a.flip`; `flip` alone means the view it is like."""
    ops = {op.name: op for op in view.ops}
    for text in spec.same:
        where = f"views.{view.name}.same"
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
        if view.count is not None or above[other].count is not None:
            raise RecipeError(f"{where}: views with a count draw for each member and cannot share draws")
        ops[name] = PlannedOp(name, ops[name].op, theirs[name].owner)
    return PlannedView(view.name, view.source, tuple(ops.values()), view.orbit, view.count)


def mixes(plan: Mapping[str, PlannedView]) -> bool:
    """Whether some view mixes the images of a batch, so that what an image looks like depends on the others."""
    return any(isinstance(planned.op, MIXING) for view in plan.values() for planned in view.ops)


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
    return [view] if view.source == IMAGE else [*_chain(plan, view.source), view]


def usual_test_view(size: tuple[int, int], share: float = 1.0) -> PlannedView:
    """The shorter side resized and the centre, `share` of it, cut out; sizes that are not square are resized to."""
    height, width = size
    ops: list[Op] = [Resize(round(height / share)), CenterCrop(height)] if height == width else [Resize(size)]
    return PlannedView(TEST, IMAGE, tuple(PlannedOp(f"test_{n}", op, (TEST, f"{n}")) for n, op in enumerate(ops)))


def with_sources(plan: Mapping[str, PlannedView], wanted: Collection[str]) -> list[str]:
    """The views to render, in order, so that all wanted ones (or their members) can be made."""
    needed = {name.partition(".")[0] for name in wanted}
    for view in reversed(list(plan.values())):
        if view.name in needed and view.source != IMAGE:
            needed.add(view.source.partition(".")[0])
    return [name for name in plan if name in needed]


def sample_views(
    plan: Mapping[str, PlannedView], sizes: Tensor, index: Tensor | Sequence[int], epoch: int, seed: int
) -> dict[str, dict[str, Params]]:
    """Parameters of every op of every view: view -> op -> {name: [B, …]}, or [B*count, …] for a view with a count.

    sizes: heights and widths of the source images, int64 [B, 2]. index: which images, [B]. Nothing but the arguments
    matters, so the same call gives the same parameters on any machine, at any time; and in any batch, but for ops that
    mix the images of a batch. Raises DataError for an image that is too small for an op, or would grow without bounds.
    """
    size_of: dict[str, Tensor] = {IMAGE: sizes}
    for view in plan.values():
        size = size_of[view.source.partition(".")[0]]
        check_growth([planned.op for planned in view.ops], size)
        size_of[view.name] = view.output_size(size)
    return _sample(plan, sizes, index, epoch, seed)


def _sample(
    plan: Mapping[str, PlannedView], sizes: Tensor, index: Tensor | Sequence[int], epoch: int, seed: int
) -> dict[str, dict[str, Params]]:
    rows = np.asarray(index, dtype=np.int64)
    size_of: dict[str, Tensor] = {IMAGE: sizes}
    drawn: dict[str, dict[str, Params]] = {}
    for view in plan.values():
        size = size_of[view.source.partition(".")[0]]
        drawn[view.name] = {}
        for planned in view.ops:
            if view.count is None:
                params = planned.op.sample(Draws(seed, epoch, rows, *planned.owner), size)
            else:
                owner, name = planned.owner
                each = [
                    planned.op.sample(Draws(seed, epoch, rows, f"{owner}.{member}", name), size)
                    for member in range(view.count)
                ]
                params = {key: interleave([one[key] for one in each]) for key in each[0]}
            drawn[view.name][planned.name] = params
            size = planned.op.output_size(size)
        size_of[view.name] = size
    return drawn


def render_views(
    plan: Mapping[str, PlannedView],
    images: Source,
    params: Mapping[str, Mapping[str, Params]],
    target: Tensor | None = None,
    classes: int | None = None,
    compiled: bool = True,
) -> dict[str, View]:
    """Makes the pixels of every view of the plan. Inputs are left as they are.

    images: [B, C, H, W] uint8 or float in [0, 1]; or B images [C, H, W] of unlike sizes, if every view crops or resizes
    them to one. target: labels [B] or soft targets [B, classes]. classes: how many, for views that mix labels.
    compiled: grey levels on the CPU go through compiled programs, to within their rounding what the ops' own `render`
    gives; all else, and everything without `compiled`, through that. Raises ValueError where sizes remain unlike.
    """
    made: dict[str, View] = {}
    for view in plan.values():
        base, _, member = view.source.partition(".")
        if base == IMAGE:
            source, labels, mixed = images, target, False
        else:
            source, labels, mixed = made[base].images, made[base].target, made[base].mixed
            if member:
                source, labels = members_of(made[base], int(member))
        if view.count is not None:
            labels = None if labels is None else labels.repeat_interleave(view.count, dim=0)
        drawn = params[view.name]
        for planned in view.ops:
            if isinstance(planned.op, MIXING):
                drawn = {**drawn, planned.name: on_rows(drawn[planned.name], view.count or 1)}
                labels, mixed = mix_target(labels, drawn[planned.name], classes), True
        source = _render(view.ops, source, drawn, view.count or 1, compiled)
        source = source if isinstance(source, Tensor) else together(source)
        if not isinstance(source, Tensor):
            raise ValueError(f"view '{view.name}' leaves images of unlike sizes; begin it with a crop or a resize")
        kept = dict(params[view.name])
        if view.orbit is not None:
            source = orbit(source, view.orbit).flatten(0, 1)
            kept = {op: {k: v.repeat_interleave(view.members, 0) for k, v in ps.items()} for op, ps in kept.items()}
            labels = None if labels is None else labels.repeat_interleave(view.members, dim=0)
        made[view.name] = View(source, kept, labels, view.members, mixed)
    return made


def draw_views(
    plan: Mapping[str, PlannedView],
    images: Source,
    target: Tensor | None,
    index: Tensor | Sequence[int],
    epoch: int,
    seed: int,
    classes: int | None = None,
    compiled: bool = True,
    renderer: Callable[..., dict[str, View]] = render_views,
) -> dict[str, View]:
    """Samples and renders in one. Raises RecipeError where an op does not fit the images, as a large crop.

    Parameters lie where the images do. renderer: for images on a device, `render_views` or that through
    `torch.compile`, which has nothing to say on programs that are compiled already.
    """
    device_type = images.device.type if isinstance(images, Tensor) else "cpu"
    try:
        # pixels do not depend on the precision that the networks are trained in
        with torch.autocast(device_type, enabled=False):
            params = sample_views(plan, sizes_of(images), index, epoch, seed)
            make = render_views
            if isinstance(images, Tensor) and device_type != "cpu":
                params, make = to_device(params, images.device), renderer
            return make(plan, images, params, target, classes, compiled)
    except ValueError as error:
        raise RecipeError(f"views: {error}") from None


def to_device(params: Mapping[str, Mapping[str, Params]], device: torch.device) -> dict[str, dict[str, Params]]:
    """Drawn parameters on a device, sent without waiting for it."""
    return {
        view: {
            op: {key: value.to(device, non_blocking=True) for key, value in drawn.items()} for op, drawn in ops.items()
        }
        for view, ops in params.items()
    }


def draw_boxes(
    plan: Mapping[str, PlannedView], sizes: Tensor, index: Sequence[int], epoch: int, seed: int
) -> tuple[Tensor, Tensor] | None:
    """What each view cuts from the source image, for decoding no more than that; None where a view takes it whole.

    sizes: H and W of the images [B, 2]. Returns boxes in pixels [B, K, 4] and the sizes that they become [B, K, 2].
    """
    first = {
        name: PlannedView(name, IMAGE, view.ops[:1], None, view.count)
        for name, view in plan.items()
        if view.source == IMAGE
    }
    if not all(view.ops and isinstance(view.ops[0].op, (Crop, Resize)) for view in first.values()):
        return None
    drawn = _sample(first, sizes, index, epoch, seed)
    boxes, outs = [], []
    for name, view in first.items():
        box = drawn[name][view.ops[0].name]["box"].view(len(sizes), -1, 4)
        boxes.append(box * sizes.repeat(1, 2)[:, None])
        outs.append(view.output_size(sizes)[:, None].expand(-1, box.shape[1], 2))
    return torch.cat(boxes, dim=1), torch.cat(outs, dim=1)


def _render(
    ops: Sequence[PlannedOp],
    images: Source,
    params: Mapping[str, Params],
    repeat: int,
    compiled: bool,
) -> Tensor | Sequence[Tensor]:
    """The images, each `repeat` times, after all ops: runs of compiled ops as one program, others one by one."""
    for can_lower, run in groupby(ops, key=lambda planned: isinstance(planned.op, Lowered)):
        drawn = in_parts([(planned.op, params[planned.name]) for planned in run])
        if compiled and can_lower and is_levels(images):
            made = render(drawn, images, repeat)  # type: ignore[arg-type]
            if made is not None:
                images, repeat = made, 1
                continue
        images, repeat = repeated(images, repeat), 1
        for op, values in drawn:
            images = _one_by_one(op, images, values)
    return repeated(images, repeat)


def _one_by_one(op: Op | ResizedPart, images: Tensor | Sequence[Tensor], params: Params) -> Tensor | list[Tensor]:
    """Renders a batch at once; images of unlike sizes one by one, until they are alike."""
    images = images if isinstance(images, Tensor) else together(images)
    if isinstance(images, Tensor):
        return op.render(images, params)
    made = [
        op.render(image[None], {name: value[i : i + 1] for name, value in params.items()})[0]
        for i, image in enumerate(images)
    ]
    return together(made)


def repeated(images: Source, times: int) -> Tensor | Sequence[Tensor]:
    """Each image so many times, one copy after the other."""
    if isinstance(images, Reduced):
        raise ValueError("images decoded at a part of their size need a crop or a resize first")
    if times == 1:
        return images
    if isinstance(images, Tensor):
        return images.repeat_interleave(times, dim=0)
    return [image for image in images for _ in range(times)]


def members_of(view: View, member: int) -> tuple[Tensor, Tensor | None]:
    """Images and target of one member of a family, [B, …]."""
    target = None if view.target is None else view.target[member :: view.members]
    return view.images[member :: view.members], target


def member_view(view: View, member: int) -> View:
    """One member of a family as a view of its own."""
    images, target = members_of(view, member)
    params = {op: {k: v[member :: view.members] for k, v in drawn.items()} for op, drawn in view.params.items()}
    return View(images, params, target, mixed=view.mixed)


def interleave(tensors: Sequence[Tensor]) -> Tensor:
    """m tensors [B, …] as one [B*m, …] whose row i*m + t is row i of tensor t."""
    return torch.stack(list(tensors), dim=1).flatten(0, 1)
