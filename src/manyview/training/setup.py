"""What a run has before its first update: made, checked and rehearsed, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin
from torch import nn

from manyview.branches.given import Given
from manyview.data import Splits, check_labels, open_splits
from manyview.data.loader import Batch, Batches
from manyview.data.loader import stream as open_stream
from manyview.data.render import Rendering, choose_rendering
from manyview.data.twins import tell_twins
from manyview.errors import ManyviewError, RecipeError, RunError
from manyview.evaluate.evaluate import check_model, check_protocols, with_accuracy
from manyview.evaluate.model import StepModel
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.protocols import parse_protocols
from manyview.foundation.group import join, on_cpus
from manyview.optimize.clip import clipped_together
from manyview.optimize.optimize import (
    Clock,
    clock_of,
    fixed_parts,
    images_of,
    make_optimizer,
    make_schedule,
    steps_of,
)
from manyview.optimize.sync_batchnorm import sync_batchnorm
from manyview.recipe.batches import batches_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.settings import Train
from manyview.recipe.streams import check_images, read_of
from manyview.relations.thresholds import FlexRule
from manyview.show.display import Display
from manyview.step import Step
from manyview.training.parts import check_parts
from manyview.training.prepare import check_teachers, images_together, in_memory, rehearse
from manyview.training.recompute import save_memory
from manyview.training.sharding import Twin, shard, shared_over
from manyview.training.trackers import check_trackers


@dataclass(frozen=True)
class Setup:
    """The parts of a run. They stay as they are, but for what the step and the optimiser learn.

    wrapped: the step as it is trained, on its device and in its process, see `on_devices`; before, the step itself.
    together: images of the first stream that a process draws at once. set_lr: sets the lr of an update, and returns it.
    checkpoint_every: updates. protocols: what the end measures, accuracy first where something classifies. mesh, twin:
    of a step that is shared out, see `sharding`.
    """

    recipe: Recipe
    accelerator: Accelerator
    display: Display
    splits: Splits
    protocols: list[Measure]
    clock: Clock
    step: Step
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    set_lr: Callable[[int], float]
    together: int
    checkpoint_every: int
    rendering: Rendering
    mesh: Any = None
    twin: Twin | None = None

    @property
    def main(self) -> bool:
        """Whether this is the process that evaluates, writes and shows."""
        return self.accelerator.is_main_process

    @property
    def images_per_step(self) -> int:
        """Images of an update, over all processes and streams."""
        return sum(images_of(self.recipe.train, self.splits.counts).values())

    @cached_property
    def clipped(self) -> list[list[nn.Parameter]]:
        """Parameters whose gradients are clipped together."""
        return clipped_together(self.step)

    @property
    def batches(self) -> Batches:
        """The batches of this process."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        return batches_of(self.recipe, self.splits, self.rendering.place, self.step.num_classes, rank, world)

    def over_all(self, given: bool) -> Setup:
        """With the processes that the step is shared out over, if any; all must call it. given: see `shared_over`."""
        try:
            return replace(self, mesh=shared_over(self.accelerator, self.recipe.train, given))
        except ManyviewError as error:
            error.tells = self.main  # they all find the same
            raise

    def on_devices(self) -> Setup:
        """With step and optimiser as accelerate wraps them or shared out, compiled where the recipe says so."""
        train, accelerator, twin = self.recipe.train, self.accelerator, None
        if self.mesh is None:
            wrapped, optimizer = accelerator.prepare(self.step, self.optimizer)
        else:
            twin = Twin(self.step)
            shard(self.step.to(accelerator.device), self.optimizer, self.mesh, train.precision == "bf16")
            # not to be wrapped once more, only to look in the run's precision
            wrapped = accelerator.prepare_model(self.step, evaluation_mode=True)
            optimizer = accelerator.prepare_optimizer(self.optimizer)
        if train.compile:
            self.step.compile_parts()
        return replace(self, wrapped=wrapped, optimizer=optimizer, twin=twin)

    @property
    def judged(self) -> Step:
        """What is measured: the step, or its twin of whole weights, inside of `looking`."""
        return self.step if self.twin is None else self.twin.step

    def looking(self) -> AbstractContextManager[None]:
        """Inside, the step that is `judged` has the weights of now. All processes must enter it."""
        return nullcontext() if self.twin is None else self.twin.like(self.step, self.accelerator.device)

    def stream(self, first: int) -> Generator[Batch, None, None]:
        """The parts of all batches from an update on, in order. Closing it ends what makes them."""
        parts, data = self.recipe.train.accumulate, self.recipe.data
        pin = self.accelerator.device.type == "cuda"
        stop = self.clock.steps * parts
        place, batches = self.rendering.place, self.batches
        return open_stream(batches, first * parts, stop, place, data.workers, pin=pin, patience=data.timeout)


def make_accelerator(train: Train) -> Accelerator:
    """Devices, precision and processes, see `foundation.group`. Raises RunError for an engine that does not fit."""
    for engine in ("DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() == "true":
            raise RunError(f"manyview does not train with {engine}; launch without it")
    join()
    accelerator = Accelerator(
        mixed_precision="bf16" if train.precision == "bf16" else "no",
        # what `accelerate launch` has to say of it is another run's: the recipe says it
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=train.accumulate, sync_with_dataloader=False),
        step_scheduler_with_optimizer=False,
        cpu=on_cpus(),
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise RunError("a recipe says whether weights are shared out, train.shard=true; launch without FSDP")
    return accelerator


def set_up(
    recipe: Recipe,
    quiet: bool = False,
    backbone: Given | None = None,
    data: Mapping[str, Any] | None = None,
    pretrained: bool = True,
) -> Setup:
    """Makes the parts of a run. Raises ManyviewError for all that can be known to be wrong; nothing is written.

    backbone: a network in the place of the recipe's, or one a branch.
    data: data sets by split, in the place of what the recipe names; the setup's recipe says so.
    pretrained: False where a checkpoint follows, which has all weights: what they once began with is not looked for.
    """
    recipe = recipe if data is None else recipe.on_given_data()
    config = recipe.train
    check_trackers(config.track)
    accelerator = make_accelerator(config)
    world = accelerator.num_processes
    display = Display(quiet=quiet or not accelerator.is_main_process)
    splits = read_of(recipe, open_splits(recipe.data, recipe.seed, data))
    protocols = parse_protocols(recipe.evaluate, words=recipe.words)
    check_labels(splits, recipe.needs_labels, recipe.evaluate)
    check_protocols(protocols, splits)
    check_images(recipe, splits)
    together = images_together(config, splits.counts, world)
    clock = clock_of(config, splits.counts)

    step = Step(recipe, len(splits.classes), clock.steps, backbone=backbone, pretrained=pretrained)
    check_teachers(step, splits.classes)
    if step.classifier:
        check_labels(splits, (), ["classify"])
    check_model(protocols, StepModel(step, splits.classes), splits)
    if together == 1 and any(isinstance(module, torch.nn.BatchNorm1d) for module in step.modules()):
        raise RecipeError("train.batch_size: a head with BatchNorm needs at least two images a part and process")
    if config.sync_batchnorm:
        sync_batchnorm(step, world, accelerator.device)
    optimizer = make_optimizer(config, step)
    step.hold(fixed_parts(config))
    save_memory(step)
    _make_room(step, splits)
    set_lr = make_schedule(config, optimizer, clock)
    with display.busy("drawing a first view"):
        rehearse(step, splits, together)
    check_parts(step, world, together)  # which may tell something, so what is refused comes before
    checkpoint_every = max(1, steps_of(config.checkpoint_every, clock, "checkpoint_every"))
    splits = in_memory(splits, recipe.data, display)
    if accelerator.is_main_process:
        tell_twins(splits)
    return Setup(
        recipe=recipe,
        accelerator=accelerator,
        display=display,
        splits=splits,
        protocols=with_accuracy(protocols, step),
        clock=clock,
        step=step,
        wrapped=step,
        optimizer=optimizer,
        set_lr=set_lr,
        together=together,
        checkpoint_every=checkpoint_every,
        rendering=choose_rendering(recipe.data.render, splits.streams.values(), accelerator.device.type),
    )


def _make_room(step: Step, splits: Splits) -> None:
    """Tells what remembers images how many there are, since it could else ask a device alone."""
    room = 1 + max(int(images.index.max()) for images in splits.streams.values())
    for rule in (module for module in step.modules() if isinstance(module, FlexRule)):
        rule.room = room
