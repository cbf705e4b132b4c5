"""What a step asks of its recipe's plans: whether its arguments fit, how many rows pass, what a relation is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from manyview.branches.branch import Branch
from manyview.branches.ema import Ema
from manyview.branches.given import Network, look_at, tried_size
from manyview.branches.spec import CLASSIFIER, FEATURES, LOGITS, BranchSpec
from manyview.branches.teacher import Teacher, look_at_teacher
from manyview.errors import RecipeError
from manyview.recipe.readouts import Arguments, Mix, Read, RelationPlan, rows_an_image
from manyview.recipe.recipe import check_recipe
from manyview.relations.joint import aggregate
from manyview.relations.reading import HasState, Reading
from manyview.relations.weight import Weight
from manyview.views.engine.render import Source, together
from manyview.views.ops.mix import mix_rows, mix_target, on_rows
from manyview.views.ops.op import as_float
from manyview.views.plan import TEST, PlannedView, fixed_size, stream_of, usual_test_view
from manyview.views.streams import STREAMS
from manyview.views.view import View, draw_views, member_view


def check_arguments(recipe: Any, num_classes: Any, total_steps: Any, pretrained: Any) -> None:
    """Raises RecipeError for what is no recipe, no number of classes, or a network in the wrong place."""
    check_recipe(recipe, "Step")
    if type(num_classes) is not int or num_classes < 0:
        raise RecipeError(f"Step: num_classes is a whole number, 0 without labels, got {num_classes!r}")
    if not num_classes:
        heads = {name: spec.heads.get(LOGITS, CLASSIFIER) for name, spec in recipe.branch_plan.items()}
        scored = [
            plan.text
            for plan in recipe.relation_plan
            if any(read.name == LOGITS and heads[read.branch] == CLASSIFIER for read in plan.all_reads)
        ]
        if scored:
            raise RecipeError(
                f"Step: num_classes=0, and {scored[0]} reads class scores; say how many classes there are"
            )
    if isinstance(total_steps, (nn.Module, Mapping)):
        raise RecipeError("Step: a network is given by name, as in Step(recipe, 10, backbone=model)")
    if total_steps is not None and (type(total_steps) is not int or total_steps < 1):
        raise ValueError(f"total_steps is the run's number of updates, at least 1, got {total_steps!r}")
    if not isinstance(pretrained, bool):
        raise RecipeError(f"Step: pretrained is True or False, got {type(pretrained).__name__}")


def in_order(specs: Mapping[str, BranchSpec], widths: Mapping[str, int]) -> Iterable[tuple[str, BranchSpec]]:
    """Branches by name: those that learn, then what is frozen, then EMAs, which begin as what they follow.

    widths: of the h of frozen branches, which heads may be as wide as.
    """
    ordered = sorted(specs.items(), key=lambda item: (item[1].ema is not None, item[1].frozen is not None))
    return [(name, spec.with_widths(widths)) for name, spec in ordered]


def look_at_all(
    networks: Mapping[str, nn.Module | Teacher],
    specs: Mapping[str, BranchSpec],
    reads: Iterable[Read],
    views: Mapping[str, PlannedView],
    classes: int,
    channels: int,
) -> dict[str, Network]:
    """The networks that were given, and frozen teachers, by branch, each looked at on views of the sizes it will see.

    classes: of the data. channels: of the images. Raises ManyviewError for what cannot be meant.
    """
    looked: dict[str, Network] = {}
    for name, given in networks.items():
        own = [read for read in reads if read.branch == name]
        used, module = {read.name for read in own}, given.module if isinstance(given, Teacher) else given
        fixed = dict.fromkeys(fixed_size(views, read.view) for read in own)
        sizes = [size for size in fixed if size is not None] or [tried_size(module, views)]
        if isinstance(given, Teacher):
            looked[name] = look_at_teacher(given, specs[name], sizes, used, classes, channels)
        else:
            trained = any("stop" not in read.functions for read in own)
            looked[name] = look_at(module, specs[name], sizes, used, trained, classes, channels)
    return looked


def check_length(schedules: Mapping[str, Weight | Ema]) -> None:
    """Raises RecipeError if a schedule follows progress, in a run of unknown length, where it would stand still."""
    for key, schedule in schedules.items():
        if schedule.follows_progress:
            raise RecipeError(
                f"{key}: {schedule} follows the run's progress, whose length is unknown; "
                "give it in updates, as in Step(recipe, classes, total_steps=4000)"
            )


def rows_of_streams(
    reads: Iterable[Read], branches: Iterable[str], views: Mapping[str, PlannedView], looks: int = 1
) -> dict[str, int]:
    """Images that pass the branches for each image of a stream. looks: how often an update looks at it."""
    rows = dict.fromkeys(STREAMS, 0)
    for branch in branches:
        read = {each.view for each in reads if each.branch == branch}
        for view in read:
            base, _, member = view.partition(".")
            if not (member and base in read):  # a slice of its family's rows
                rows[stream_of(views, view)] += looks * (1 if member else views[view].members)
    return {stream: count for stream, count in rows.items() if count}


def rows_per_image(rows: Mapping[str, int], images: Mapping[str, int]) -> float:
    """Images that pass the branches, for each image of an update: a mean over its streams. rows, images: by stream."""
    passed, seen = sum(rows[stream] * count for stream, count in images.items()), sum(images.values())
    return passed / seen if passed % seen else passed // seen


def reading_of(
    read: Read, values: Mapping[tuple[str, str, str], Tensor], views: Mapping[str, View], classes: int
) -> Reading:
    """What a relation is given: a readout after its functions. values: (branch, readout, view) -> [rows, dim]."""
    view = _view(views, read.view)
    value, members, target = values[read.branch, read.name, read.view].float(), view.members, view.target
    for function in read.functions:
        if isinstance(function, Mix):
            like = _view(views, function.like)
            drawn = like.params[function.op]
            if like.members < members:
                drawn = {name: param.repeat_interleave(members, dim=0) for name, param in drawn.items()}
            drawn = on_rows(drawn, members)
            value, target = mix_rows(value, drawn), mix_target(target, drawn, classes)
        elif function == "stop":
            value = value.detach()
        else:
            value = aggregate(value, members)
            target = None if target is None else target[::members]
            members = 1
    return Reading(value, target, view.params, members, view.index)


def measures_of(relations: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """What relations measured in the last forward pass beside their losses, scalars: `relation/measure`."""
    found = {name: getattr(relation, "measures", {}) for name, relation in relations.items()}
    return {f"{name}/{key}": value.detach() for name, each in found.items() for key, value in each.items()}


def called_with(
    call: Arguments, values: Mapping[tuple[str, str, str], Tensor], views: Mapping[str, View], classes: int
) -> tuple[list[Reading], dict[str, Reading | tuple[Reading, ...]]]:
    """The arguments of a relation, positional and named; see `reading_of`."""
    return call.each(lambda read: reading_of(read, values, views, classes))


def with_state(relations: nn.Module, branches: Iterable[Branch]) -> dict[str, HasState]:
    """What has a state that moves on after an update, by name: in relations, and heads of trained branches."""
    own = [branch for branch in branches if branch.spec.learns]
    heads = {f"{branch.spec.name}.{name}": head for branch in own for name, head in branch.heads.items()}
    named = {**dict(relations.named_modules()), **heads}
    return {name: each for name, each in named.items() if isinstance(each, HasState)}


def first_classified(relations: Iterable[RelationPlan], branch: Branch) -> Read | None:
    """The first readout of a branch that holds class scores: the classifier's, or a joint head's."""
    reads = [read for plan in relations for read in plan.reads if read.branch == branch.spec.name]
    return next((read for read in reads if read.name == LOGITS or read.name in branch.orbits), None)


def scores_of(
    read: Read,
    values: Mapping[tuple[str, str, str], Tensor],
    orbits: Mapping[str, PlannedView],
    views: Mapping[str, PlannedView],
) -> Tensor:
    """Class scores [B, classes] of such a readout, without gradient; of a family those of its first member."""
    base, _, member = read.view.partition(".")
    members = 1 if member else views[base].members
    scores = values[read.branch, read.name, read.view].detach().float()[::members]
    # a joint head scores member t in every m-th column from t on
    family = orbits.get(read.name)
    return scores if family is None else scores[:, int(member or 0) :: family.members]


def to_watch(reads: Iterable[Read], branch: Branch, views: Mapping[str, PlannedView]) -> list[tuple[str, str]]:
    """(readout, view) of a branch whose spread tells a collapse; of two views of the same images, if there are."""
    name = "z" if "z" in branch.dims else FEATURES
    wanted = [(read.name, read.view) for read in reads if read.branch == branch.spec.name]
    seen = {view for found, view in branch.with_inputs(wanted) if found == name or name == FEATURES}
    rows = {view: rows_an_image(view, views) for view in views}
    order = [view for made in views for view in (made, *(f"{made}.{t}" for t in range(rows[made])))]
    found = sorted(seen, key=order.index)
    single = [view for view in found if rows_an_image(view, views) == 1]  # a family's rows are not those of a view
    of = {view: stream_of(views, view) for view in single}
    pairs = [[view for view in single if of[view] == stream][:2] for stream in dict.fromkeys(of.values())]
    return [(name, view) for view in max(pairs, key=len, default=found[:1])]


def pixels_to_test(
    images: Source, plan: Mapping[str, PlannedView], trained: tuple[int, int] | None, seed: int
) -> Tensor:
    """What evaluation looks at, float [B, C, h, w] in [0, 1]: the view `test`; without one, the image itself.

    An image of another size than the network was trained on is then resized to it, and cut to its shape.
    """
    batch = images if isinstance(images, Tensor) else together(images)  # type: ignore[arg-type]
    if not plan and trained is not None and {tuple(image.shape[-2:]) for image in batch} != {trained}:
        plan = {TEST: usual_test_view(trained)}
    if plan:
        return draw_views(plan, batch, None, range(len(images)), 0, seed)[TEST].pixels
    if not isinstance(batch, Tensor):
        raise RecipeError(
            "views: images have unlike sizes; say what evaluation looks at, as in "
            "test: {from: image, make: 'resize(256) | center_crop(224)'}"
        )
    return as_float(batch)


def _view(views: Mapping[str, View], name: str) -> View:
    """A view, or a member such as `r.0`."""
    base, _, member = name.partition(".")
    return member_view(views[base], int(member)) if member else views[base]


__all__ = [
    "called_with",
    "check_arguments",
    "check_length",
    "first_classified",
    "in_order",
    "look_at_all",
    "measures_of",
    "pixels_to_test",
    "reading_of",
    "rows_of_streams",
    "rows_per_image",
    "scores_of",
    "to_watch",
    "with_state",
]
