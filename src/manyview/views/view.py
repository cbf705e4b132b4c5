"""Views of a batch, drawn and rendered by a plan (see `plan`).

    sample_views   draws the parameters of every op of every view, a pure function of (seed, epoch, index)
    render_views   makes the pixels from images and parameters, a pure function of both

A family is a view of several members: the elements of an orbit, or `count` independent draws. Its rows keep the members
of one image together: row i*m + t is member t of image i; `r.0` names a member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from manyview.errors import RecipeError
from manyview.foundation.protocols import follows
from manyview.views.engine.program import lowers
from manyview.views.engine.render import Reduced, Source, is_levels, render, sizes_of, together
from manyview.views.ops.crop import Crop, Resize
from manyview.views.ops.mix import MIXING, on_rows
from manyview.views.ops.op import LooksBack, Op, Params, Retargets, as_float
from manyview.views.ops.orbit import orbit
from manyview.views.ops.part import ResizedPart, check_growth, in_parts
from manyview.views.plan import PlannedOp, PlannedView
from manyview.views.streams import STREAMS
from manyview.views.way import way_to

Drawn = Mapping[str, Mapping[str, Params]]  # view -> op -> {name: [B, …]}


@dataclass(frozen=True)
class View:
    """What a way to make an image made of a batch.

    images: uint8, or float in [0, 1], [B*members, C, h, w]. params: op name -> {name: [B*members, …]}.
    target: labels [B*members], soft targets [B*members, classes], or None without labels. mixed: whether the target is
    not its image's label: images of the batch were mixed with one another, or it was softened, here or in a view above.
    index: of the images, int64 [B], where it is known.
    """

    images: Tensor
    params: dict[str, Params] = field(default_factory=dict)
    target: Tensor | None = None
    members: int = 1
    mixed: bool = False
    index: Tensor | None = None

    @property
    def pixels(self) -> Tensor:
        """Float in [0, 1], [B*members, C, h, w]."""
        return as_float(self.images)

    def labelled(self, labels: Tensor | None) -> View:
        """The view with the labels [B] of its images, unless it has a target of its own.

        Raises ValueError where images were mixed, or targets softened: then the labels had to be there.
        """
        if labels is None or self.target is not None:
            return self
        if self.mixed:
            raise ValueError("these views were softened or mixed without labels; pass labels where the views are drawn")
        return replace(self, target=labels.repeat_interleave(self.members, dim=0))

    def moved(self, move: Callable[[Tensor], Tensor]) -> View:
        """The view with its images and target moved, and what it drew, which relations read (AugSelf)."""
        target = None if self.target is None else move(self.target)
        params = moved_params({"": self.params}, move)[""]
        return replace(self, images=move(self.images), params=params, target=target)


def sample_views(
    plan: Mapping[str, PlannedView], sizes: Tensor, index: Tensor | Sequence[int], epoch: int, seed: int
) -> dict[str, dict[str, Params]]:
    """Parameters of every op of every view: view -> op -> {name: [B, …]}, or [B*count, …] for a view with a count.

    sizes: heights and widths of the source images, int64 [B, 2]. index: which images, [B]. Nothing but the arguments
    matters, so the same call gives the same parameters on any machine, at any time; and in any batch, but for ops that
    mix the images of a batch. Raises DataError for an image that is too small for an op, or would grow without bounds.
    """
    size_of = dict.fromkeys(STREAMS, sizes)
    for view in plan.values():
        size = size_of[view.source.partition(".")[0]]
        size_of[view.name] = check_growth([planned.op for planned in view.ops], size)
    return _sample(plan, sizes, index, epoch, seed)


def _sample(
    plan: Mapping[str, PlannedView], sizes: Tensor, index: Tensor | Sequence[int], epoch: int, seed: int
) -> dict[str, dict[str, Params]]:
    rows = np.asarray(index, dtype=np.int64)
    size_of = dict.fromkeys(STREAMS, sizes)
    drawn: dict[str, dict[str, Params]] = {}
    for view in plan.values():
        size = size_of[view.source.partition(".")[0]]
        drawn[view.name] = {}
        for planned in view.ops:
            if follows(planned.op, LooksBack):
                params = planned.op.look(way_to(plan, view, drawn, sizes)[0])
            elif view.count is None:
                params = planned.op.sample(planned.draws(seed, epoch, rows), size)
            else:
                each = [
                    planned.op.sample(planned.draws(seed, epoch, rows, member), size) for member in range(view.count)
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
    """Makes the pixels of every view of the plan, all of one stream. Inputs are left as they are.

    images: [B, C, H, W] uint8 or float in [0, 1]; or B images [C, H, W] of unlike sizes, if every view crops or resizes
    them to one. target: labels [B] or soft targets [B, classes]. classes: how many, for views that mix labels.
    compiled: grey levels on the CPU go through compiled programs, to within their rounding what the ops' own `render`
    gives; all else, and everything without `compiled`, through that. Raises ValueError where sizes remain unlike.
    """
    made: dict[str, View] = {}
    for view in plan.values():
        base, _, member = view.source.partition(".")
        if base in STREAMS:
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
            if follows(planned.op, Retargets):
                labels, mixed = planned.op.retarget(labels, drawn[planned.name], classes), True
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
    drawn: Drawn | None = None,
) -> dict[str, View]:
    """Samples and renders in one. Raises RecipeError where an op does not fit the images, as a large crop.

    Parameters lie where the images do. drawn: what was sampled before, of these or more views. renderer: for images on
    a device, `render_views` or that through `torch.compile`, which has nothing to say on compiled programs.
    """
    device_type = images.device.type if isinstance(images, Tensor) else "cpu"
    try:
        # pixels do not depend on the precision that the networks are trained in
        with torch.autocast(device_type, enabled=False):
            params = sample_views(plan, sizes_of(images), index, epoch, seed) if drawn is None else drawn
            make = render_views
            if isinstance(images, Tensor) and device_type != "cpu":
                params, make = to_device(params, images.device), renderer
            return make(plan, images, params, target, classes, compiled)
    except ValueError as error:
        raise RecipeError(f"views: {error}") from None


def to_device(params: Drawn, device: torch.device) -> dict[str, dict[str, Params]]:
    """Drawn parameters on a device, sent without waiting for it."""
    return moved_params(params, lambda value: value.to(device, non_blocking=True))


def moved_params(params: Drawn, move: Callable[[Tensor], Tensor]) -> dict[str, dict[str, Params]]:
    """Drawn parameters, each moved."""
    return {
        view: {op: {key: move(value) for key, value in drawn.items()} for op, drawn in ops.items()}
        for view, ops in params.items()
    }


def draw_boxes(
    plan: Mapping[str, PlannedView], sizes: Tensor, index: Sequence[int], epoch: int, seed: int
) -> tuple[Tensor, Tensor] | None:
    """What each view cuts from the source image, for decoding no more than that; None where a view takes it whole.

    sizes: H and W of the images [B, 2]. Returns boxes in pixels [B, K, 4] and the sizes that they become [B, K, 2].
    """
    first = {
        name: PlannedView(name, view.source, view.ops[:1], None, view.count)
        for name, view in plan.items()
        if view.source in STREAMS
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
    for can_lower, run in groupby(ops, key=lambda planned: lowers(planned.op)):
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
    return View(images, params, target, mixed=view.mixed, index=view.index)


def interleave(tensors: Sequence[Tensor]) -> Tensor:
    """m tensors [B, …] as one [B*m, …] whose row i*m + t is row i of tensor t."""
    return torch.stack(list(tensors), dim=1).flatten(0, 1)
