"""Settings that were made for another length of run, size of batch or number of images: told in a line each.

Nothing here is wrong by itself, so nothing is refused. A line says what will happen, and what to write instead.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from manyview.branches.ema import Ema
from manyview.data.reading import PATIENCE
from manyview.foundation.grammar import Name, parse_call
from manyview.foundation.words import counted
from manyview.optimize.optimize import SCHEDULES, Clock, make_optimizer, steps_of
from manyview.optimize.wrapping import optimizer_call
from manyview.recipe.lr_of_batch import TRIAL, doubt_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.settings import Train
from manyview.recipe.streams import unread
from manyview.relations.cross_entropy import CrossEntropy
from manyview.relations.similarity import Similarity
from manyview.step import Step

LEFT = 0.1  # of the untrained weights in an average: more than that is told
NO_CLIP = 1e9  # a norm that no gradient has
ENOUGH = 0.01  # what the momentum that is proposed leaves of them
STRONG, SHORT = 20, 390  # a tie's weight, and the updates of a run in which it was measured to hurt, see `_of_ties`
FEW, MANY = 15, 5000  # epochs and images with which two labelled views were measured to hurt, see `_of_few_epochs`


def doubts(recipe: Recipe, step: Step, clock: Clock, images: int) -> list[str]:
    """A line on each setting that does not fit the run's length or its number of training images."""
    always = [*unread(recipe), *_of_reading(recipe)]
    if clock.steps < TRIAL:
        return always
    found = [
        *always,
        *_of_schedule(recipe.train, clock),
        *_of_averages(recipe, clock),
        *_of_relations(step, clock, images),
        *_of_ties(recipe, clock),
        *_of_few_epochs(recipe, clock, images),
        *_of_heads(step, clock),
    ]
    watched = any(plan.looks_on for plan in recipe.relation_plan)
    norm = make_optimizer(recipe.train, step).defaults.get("max_grad_norm") if watched else None
    if norm is not None and norm < NO_CLIP:
        found.append(
            f"train.optimizer: it clips by one norm of all gradients ({norm:g}), those of heads that look on behind a "
            f"stop too; train.optimizer.max_grad_norm={NO_CLIP:g} and train.clip={norm:g} keep them apart"
        )
    if recipe.batch_before is not None:
        found.append(doubt_of(recipe.batch_before, recipe.train.batch_size, recipe.train.optimizer))
    every = steps_of(recipe.train.checkpoint_every, clock, "checkpoint_every")
    if every > max(clock.steps, clock.steps_per_epoch):
        found.append(
            f"train.checkpoint_every={recipe.train.checkpoint_every!r} is {every:,} steps, and the run has "
            f"{clock.steps:,}: nothing is saved before its end"
        )
    return found


def _of_reading(recipe: Recipe) -> Iterator[str]:
    if recipe.data.timeout != PATIENCE and not recipe.data.workers:
        yield (
            f"data.timeout={recipe.data.timeout:g}: with data.workers=0 images are read in the main process, where "
            "nothing can end a decoder; one that hangs is waited for"
        )


def _of_schedule(train: Train, clock: Clock) -> Iterator[str]:
    call = parse_call(train.schedule, "train.schedule")
    given = inspect.signature(SCHEDULES[call.name]).bind_partial(*call.args, **call.kwargs).arguments
    epochs = f"the run's {clock.steps:,} steps ({counted(clock.steps / clock.steps_per_epoch, 'epoch')})"
    moments = given.get("at", ()) if call.name == "multistep" else [given["every"]] if call.name == "step" else []
    late = [moment for moment in moments if steps_of(moment, clock) >= clock.steps]
    if late:
        key, parts = ("every", "0.3") if call.name == "step" else ("at", "(0.3, 0.6)")
        yield (
            f"train.schedule: lr is lowered at {', '.join(map(str, late))}, and {epochs} end before; name parts of the "
            f"run, as in train.schedule.{key}={parts}"
        )
    warmup = steps_of(given.get("warmup", 0), clock)
    if warmup >= clock.steps:
        yield f"train.schedule: a warm-up of {warmup:,} steps fills {epochs}; shorten it, train.schedule.warmup=0.1"
    if given.get("per") == "epoch" and clock.steps <= clock.steps_per_epoch:
        yield f"train.schedule: per='epoch' keeps one lr through {epochs}; train.schedule.per=step lowers it by step"
    if given.get("per") == "epoch" and "start" not in given and 0 < warmup <= clock.steps_per_epoch:
        yield "train.schedule: by the epoch, a warm-up of one epoch is none; train.schedule.per=step warms up by step"
    lr = optimizer_call(train.optimizer).kwargs.get("lr")
    if lr is not None and 0 < lr <= given.get("floor", 0.0):
        yield f"train.schedule: floor={given['floor']:g} is not under lr={lr:g}, which will rise to it"


def _of_averages(recipe: Recipe, clock: Clock) -> Iterator[str]:
    kept: dict[str, tuple[str, Ema]] = {}
    if recipe.train.ema is not None:
        kept["train.ema"] = "the averaged weights, which are evaluated,", Ema(Name("online"), recipe.train.ema)
    for name, spec in recipe.branch_plan.items():
        if spec.ema is not None:
            kept[f"branches.{name}.momentum"] = f"the weights of {name}", spec.ema
    for key, (what, ema) in kept.items():
        points = 256  # of the run, where the momentum may rise
        rates = [ema.at((point + 0.5) / points) for point in range(points)]
        left = math.exp(clock.steps * sum(math.log(max(rate, 1e-300)) for rate in rates) / points)
        if left > LEFT:
            yield (
                f"{key} of {ema.momentum:g}: after the run's {clock.steps:,} steps {what} are {100 * left:.0f} % what "
                f"they were before training; {key}={_momentum(clock.steps):g} leaves {100 * ENOUGH:.0f} %"
            )


def _momentum(steps: int) -> float:
    """What leaves `ENOUGH` after so many updates, to a digit of what it is short of 1."""
    return 1 - float(f"{1 - ENOUGH ** (1 / steps):.1g}")


def _of_ties(recipe: Recipe, clock: Clock) -> Iterator[str]:
    """A tie of features by mse, as strong as Tied-Augment's, in a run as short as one that it was measured to hurt.

    In 390 updates of cresnet20 on CIFAR-10 tied_cifar10, warmup(20), ends at 30.38 % where cross-entropy alone ends at
    59.56 %, and in 156 at 20.45 against 41.50 (docs/results.md, one run each). Its views are heavier as well, so these
    figures do not part the two. Of weaker ties, other kinds and longer runs nothing is said.
    """
    for plan in recipe.relation_plan:
        strong = plan.weight.peak >= STRONG and plan.weight.schedule in ("constant", "warmup")
        if plan.factory is Similarity and plan.options.get("kind", "mse") == "mse" and strong and clock.steps <= SHORT:
            place = f"relations.{plan.name}.weight"
            yield (
                f"{place}={plan.weight}: so strong a tie has hurt in {SHORT} steps, and this run has {clock.steps:,} "
                "(with heavy views, 30 % where cross-entropy alone has 60 %); "
                f"{place}={replace(plan.weight, peak=1)}, or more epochs"
            )


def _of_few_epochs(recipe: Recipe, clock: Clock, images: int) -> Iterator[str]:
    """Several labelled views of each of many images, of which the run sees none often.

    With 5,000 images of CIFAR-10 at 16 px and 15 epochs of cresnet8, cross-entropy on one view of twice as many images
    a step was 3.3 points ahead of two views at equal FLOPs, on 12 of 12 seeds; with 1,000 images and 60 epochs it was
    1.5 behind (docs/evidence.md). Of other networks, sizes and data nothing was measured, and the line says so.
    """
    reads = [
        read
        for plan in recipe.relation_plan
        if plan.factory is CrossEntropy and not plan.looks_on
        for read in plan.all_reads
    ]
    views = {read.view: 1 if "." in read.view else recipe.view_plan[read.view].members for read in reads}
    count = sum(views.values())
    if count > 1 and images >= MANY and clock.steps <= FEW * clock.steps_per_epoch:
        yield (
            f"relations: {count} labelled views of each of {images:,} images in "
            f"{clock.steps / clock.steps_per_epoch:.3g} epochs: of two, in so few epochs, one view of twice as many "
            "images a step was 3 points ahead at equal cost (cresnet8 at 16 px, docs/evidence.md); one view and "
            f"train.batch_size={count * recipe.train.batch_size}, or more epochs"
        )


def _of_heads(step: Step, clock: Clock) -> Iterator[str]:
    for name in step.branches:
        for head, module in step.branch(name).heads.items():
            freeze: Any = getattr(module, "freeze", 0)
            if step.branch(name).spec.learns and freeze >= clock.steps:
                place = f"branches.{name}.{head}.freeze"
                yield (
                    f"{place}={freeze}: its last layer stays as it was drawn through all of the run's {clock.steps:,} "
                    f"steps; {place}={clock.steps // 100}"
                )


def _of_relations(step: Step, clock: Clock, images: int) -> Iterator[str]:
    for plan in step.recipe.relation_plan:
        relation: Any = step.relations[plan.name]
        rows = len(relation.queue) if hasattr(relation, "queue") else 0
        keys = clock.steps * step.recipe.train.batch_size * len(plan.calls)
        if rows >= images:
            yield (
                f"relations.{plan.name}.queue={rows}: it holds more keys than there are training images ({images:,}), "
                f"so an image meets its own older keys as negatives; relations.{plan.name}.queue={max(1, images // 4)}"
            )
        elif rows > keys:
            yield (
                f"relations.{plan.name}.queue={rows}: the run has {keys:,} keys to fill it with, and the other "
                f"negatives stay random; relations.{plan.name}.queue={max(1, keys // 4)}"
            )
        columns = len(relation.centre) if hasattr(relation, "centre") else 0
        if columns >= images:
            yield (
                f"relations.{plan.name}: {columns:,} columns for {images:,} training images; on data this small the "
                f"teacher soon answers all alike: give the head fewer, some {max(2, images // 10):,}"
            )
        if getattr(relation, "warmup", 0) >= clock.steps:
            yield (
                f"relations.{plan.name}.warmup={relation.warmup}: the teacher's temperature still rises when the run's "
                f"{clock.steps:,} steps end; relations.{plan.name}.warmup={clock.steps // 3}"
            )
        if getattr(relation, "freeze", 0) >= clock.steps:
            yield (
                f"relations.{plan.name}.freeze={relation.freeze}: the prototypes stay as they were drawn through all "
                f"of the run's {clock.steps:,} steps; relations.{plan.name}.freeze={clock.steps // 100}"
            )
