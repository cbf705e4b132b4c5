"""The streams that a recipe trains on: which it reads, and what it may not say of them."""

from __future__ import annotations

from dataclasses import replace

from manyview.data.sources import UNLABELED_SOURCE, bind_source
from manyview.data.splits import Splits
from manyview.data.unlabeled import OF_TRAIN
from manyview.errors import RecipeError
from manyview.foundation.grammar import parse_call
from manyview.foundation.words import counted, few
from manyview.recipe.readouts import RelationPlan
from manyview.recipe.recipe import Recipe
from manyview.recipe.settings import PER_LABELED
from manyview.relations.thresholds import Flex
from manyview.views.ops.soften import Soften
from manyview.views.plan import stream_of
from manyview.views.streams import IMAGE, STREAMS, UNLABELED


def check_streams(recipe: Recipe) -> None:
    """Raises RecipeError where views, relations and settings do not fit the streams that there are."""
    data, seen = recipe.data, streams_seen(recipe)
    for name, view in recipe.view_plan.items():
        if view.source == UNLABELED and data.unlabeled is None:
            raise RecipeError(
                f"views.{name}.from: {UNLABELED} is no stream of this recipe; open it with data.unlabeled=all (all "
                f"training images, without their labels), rest (those whose label is not kept) or a source"
            )
        softening = [op.name for op in view.ops if isinstance(op.op, Soften)]
        if softening and stream_of(recipe.view_plan, name) == UNLABELED:
            raise RecipeError(
                f"views.{name}.make: {softening[0]} softens the labels of a view, and the stream {UNLABELED} has none; "
                f"drop it"
            )
    if data.unlabeled is None:
        given = {
            "data.unlabeled_limit": data.unlabeled_limit is not None,
            "data.unlabeled_root": data.unlabeled_root is not None,
            "train.unlabeled_per_labeled": recipe.train.unlabeled_per_labeled != PER_LABELED,
        }
        for key in (key for key, said in given.items() if said):
            raise RecipeError(
                f"{key} is about the stream {UNLABELED}, which data.unlabeled opens; drop it, or open that"
            )
        return
    if data.unlabeled not in OF_TRAIN:
        bind_source(parse_call(data.unlabeled, UNLABELED_SOURCE), recipe.words, UNLABELED_SOURCE)
    elif data.unlabeled_root is not None:
        raise RecipeError(
            f"data.unlabeled_root: data.unlabeled={data.unlabeled} is of data.source, which has data.root; drop it, or "
            f"for the images of that folder write data.unlabeled='folder(labels=None)'"
        )
    for number, plan in enumerate(recipe.relation_plan):
        _check_relation(recipe, plan, f"relations.{number}: {plan.text}")
    if IMAGE not in seen:
        raise RecipeError(
            f"data.unlabeled: no relation reads a view from: {IMAGE}, the stream beside it; without labels to learn "
            f"from, write from: {IMAGE} and data.unlabeled=null"
        )


def _check_relation(recipe: Recipe, plan: RelationPlan, where: str) -> None:
    """Rows of two streams are of other images; and of one stream there are no labels."""
    views = list(dict.fromkeys(view for read in plan.all_reads for view in read.views))
    of = {view: stream_of(recipe.view_plan, view) for view in views}
    bare = [view for view in views if of[view] == UNLABELED]
    if bare and plan.needs_labels:
        raise RecipeError(f"{where} needs labels, and {bare[0]} is of the stream {UNLABELED}, which has none")
    if len({*of.values()}) > 1:
        told = " and ".join(f"{view} is from {stream}" for view, stream in of.items())
        raise RecipeError(f"{where} relates rows of other images: {told}; relate views of one stream")


def streams_seen(recipe: Recipe) -> list[str]:
    """The streams whose views some relation reads."""
    found = {stream_of(recipe.seen_views, name) for name in recipe.seen_views}
    return [stream for stream in STREAMS if stream in found]


def read_of(recipe: Recipe, splits: Splits) -> Splits:
    """The splits without a stream of which no relation reads a view, as where a recipe is cut down to its labels."""
    return splits if UNLABELED in streams_seen(recipe) else replace(splits, unlabeled=None, withheld=None)


def check_images(recipe: Recipe, splits: Splits) -> None:
    """Raises RecipeError where a rule of pseudo-labels counts other images than its stream has."""
    for number, plan in enumerate(recipe.relation_plan):
        for rule in (value for value in plan.options.values() if isinstance(value, Flex)):
            images = splits.streams[stream_of(recipe.view_plan, plan.all_reads[0].view)]
            try:
                rule.check_images(len(images))
            except ValueError as error:
                raise RecipeError(f"relations.{number}: {plan.text}: {error}") from None


def unread(recipe: Recipe) -> list[str]:
    """A line where a stream is opened of which no relation reads a view, and on each branch that none reads."""
    found = []
    if recipe.data.unlabeled is not None and UNLABELED not in streams_seen(recipe):
        told = "no relation reads a view of that stream, so nothing is trained on it"
        found.append(f"data.unlabeled={recipe.data.unlabeled}: {told}")
    read = dict.fromkeys(each.branch for plan in recipe.relation_plan for each in plan.all_reads)
    for name in recipe.branch_plan:
        if name not in read:
            found.append(f"branches.{name}: no relation reads it, so it is not built; what they read is {few([*read])}")
    return found


def a_step(recipe: Recipe) -> str:
    """The images of an update, by stream, in words."""
    first, *others = ((stream, recipe.train.batch_of(stream)) for stream in streams_seen(recipe))
    return " and ".join([counted(first[1], "image"), *(f"{count:,} {stream}" for stream, count in others)])


def refuse_streams(recipe: Recipe, where: str) -> None:
    """Raises RecipeError for a recipe of several streams, for a loop that feeds but one."""
    if recipe.data.unlabeled is not None:
        raise RecipeError(
            f"{where} feeds one stream of images, and this recipe reads {UNLABELED}, too; manyview train, Lightning's "
            f"Trainer, or a loop of your own, feeds both"
        )


__all__ = ["a_step", "check_images", "check_streams", "read_of", "refuse_streams", "streams_seen", "unread"]
