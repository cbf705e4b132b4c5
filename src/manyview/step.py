"""The step: one module from a batch to a loss. It is all that a training loop needs, and what is wrapped for DDP.

step = manyview.Step(recipe, num_classes=10, total_steps=4000)
step.attach(optimizer)
out = step(images, labels, index=index, epoch=epoch)
out["loss"].backward()
optimizer.step()
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from types import MappingProxyType
from typing import Any, NoReturn, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from manyview.branches.branch import Branch
from manyview.branches.ema import Ema
from manyview.branches.given import Given, given_networks, one_device
from manyview.branches.initial import drawn_apart
from manyview.branches.spec import FEATURES, LOGITS
from manyview.branches.start import Start
from manyview.branches.teacher import open_teachers
from manyview.data.batch import Batch, as_batch
from manyview.errors import ManyviewError, RecipeError
from manyview.foundation.autocast import autocast
from manyview.optimize.after_update import AfterUpdate
from manyview.optimize.habits import Habits, check_held, refuse_compiler, refuse_replicas
from manyview.optimize.layers import layers_after
from manyview.optimize.optimize import parts_of
from manyview.optimize.wrapping import looks_of
from manyview.recipe.readouts import Read, RelationPlan, build_relation, make_port
from manyview.recipe.recipe import Recipe
from manyview.recipe.stepping import (
    called_with,
    check_arguments,
    check_length,
    first_classified,
    in_order,
    look_at_all,
    measures_of,
    pixels_to_test,
    rows_of_streams,
    rows_per_image,
    scores_of,
    to_watch,
    with_state,
)
from manyview.recipe.viewing import Viewer
from manyview.relations import Port
from manyview.relations.joint import aggregate
from manyview.relations.weight import Moment, Weight
from manyview.views.ops.orbit import orbit
from manyview.views.plan import TEST, fixed_size
from manyview.views.streams import IMAGE
from manyview.views.view import View, render_views


class Output(TypedDict):
    """What a step gives. terms: relation -> its weighted, differentiable part of the loss; they sum to it exactly."""

    loss: Tensor
    terms: dict[str, Tensor]
    output: Tensor | None  # class scores of the first classified view [B, classes], without gradient
    measures: dict[str, Tensor]  # what relations measured beside their losses, scalars, without gradient
    z: list[Tensor]  # projections z (features h, where there are none) of one or two views [B, dim], without gradient


class Step(nn.Module):
    """Views, branches and relations of a recipe.

    Arguments: recipe; num_classes of the labels; total_steps, the length of the run in updates (by default what the
    recipe's `train.steps` says), which weights and momenta that follow the run's progress need to be trained. Weights
    are initialised from the recipe's seed, whatever was drawn before, or come from what `init=` and `pretrained=` name,
    see `starts`; pretrained=False skips that, where a checkpoint follows, but for frozen teachers, which none holds.
    backbone: a network in place of the recipe's, or one a branch, `{branch: module}`; see `branches.given`. Raises
    RecipeError where a relation and its readouts do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int,
        total_steps: int | None = None,
        *,
        backbone: Given | None = None,
        pretrained: bool = True,
    ) -> None:
        from timm.utils import ModelEmaV3

        super().__init__()
        check_arguments(recipe, num_classes, total_steps, pretrained)
        self.recipe = recipe
        self.num_classes = num_classes
        self.total_steps = total_steps or recipe.train.steps
        self.updates = 0
        self._follower = AfterUpdate()
        self._looks = looks_of(recipe.train.optimizer)
        self._habits = Habits(recipe.train.accumulate * self._looks)
        self._viewer = Viewer(recipe, num_classes)
        self.plan = recipe.train_views
        self.test_plan = {name: view for name, view in recipe.view_plan.items() if name == TEST}
        relations = recipe.relation_plan
        reads = [read for relation in relations for read in relation.all_reads]
        channels, read = recipe.data.channels or 3, {read.branch for read in reads}
        given = given_networks(backbone, recipe.branch_plan, read)
        teachers = open_teachers(recipe.branch_plan, given, read, channels)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)  # torch.manual_seed would seed the GPUs' generators, too
            self.branches = nn.ModuleDict()
            looked = look_at_all({**given, **teachers}, recipe.branch_plan, reads, self.plan, num_classes, channels)
            widths = {name: looked[name].width for name in teachers}
            for name, spec in in_order(recipe.branch_plan, widths):
                used = {read.name for read in reads if read.branch == name}
                if used:
                    network = looked.get(name) if spec.ema is None else self._followed(spec.ema).network_copied()
                    own = pretrained and spec.learns
                    self.branches[name] = Branch(spec, num_classes, self.plan, used, own, channels, network)
                    if spec.ema is not None:
                        self.branch(name).begin_as(self._followed(spec.ema))
            self.relations = nn.ModuleDict({plan.name: self._build(plan) for plan in relations})
        self._hold_what_is_only_stopped()
        if given:
            self._go_where_networks_lie(given)
        self.average = ModelEmaV3(self.main, decay=recipe.train.ema) if recipe.train.ema else None
        if self.average is not None:
            self.average.requires_grad_(False)  # timm leaves it on, and DDP would wait for gradients that never come
        self.rendered_views = self._viewer.rendered
        self._classified = first_classified(relations, self.main)
        self._watched = to_watch(reads, self.main, self.plan)
        asked = [(read.branch, (read.name, read.view)) for read in self._reads()]
        asked += [(self.main.spec.name, pair) for pair in self._watched]
        self._wanted = {name: sorted({pair for branch, pair in asked if branch == name}) for name in self.branches}
        self._with_state = with_state(self.relations, map(self.branch, self.branches))

    @property
    def main(self) -> Branch:
        """The branch that is evaluated and exported: the first that learns."""
        return self.branch(next(iter(self.branches)))

    @property
    def trained_size(self) -> tuple[int, int] | None:
        """Height and width of the first view that is read, if its ops fix them."""
        return fixed_size(self.plan, self._reads()[0].view)

    @property
    def rows(self) -> dict[str, int]:
        """Images that pass the networks for each image of a stream, as often as an update looks at it."""
        return rows_of_streams(self._reads(), self.branches, self.plan, self._looks)

    @property
    def rows_per_image(self) -> float:
        """Images that pass the networks for each image of a batch, of all its streams."""
        return rows_per_image(self.rows, {stream: self.recipe.train.batch_of(stream) for stream in self.rows})

    @property
    def starts(self) -> dict[str, Start]:
        """Where weights came from that were not drawn: `net.backbone` -> its place, and what of it matched."""
        found = {name: self.branch(name).starts for name in self.branches}
        return {f"{name}.{part}": start for name, starts in found.items() for part, start in starts.items()}

    def branch(self, name: str) -> Branch:
        """A branch by name."""
        return self.branches[name]  # type: ignore[return-value]

    def _followed(self, ema: Ema) -> Branch:
        if ema.of.text not in self.branches:
            raise RecipeError(f"branches: an EMA follows '{ema.of}', but no relation reads that branch")
        return self.branch(ema.of.text)

    def _go_where_networks_lie(self, given: Mapping[str, nn.Module]) -> None:
        """All else follows the given networks to their device."""
        if weights := [each for module in given.values() for each in module.parameters()]:
            self.to(one_device(weights))
        # DDP would wait for gradients of a classifier that no relation reads
        if idle := sorted(self.idle):
            self._ddp_params_and_buffers_to_ignore = idle

    @property
    def idle(self) -> set[str]:
        """Parameters that no loss reaches: of a given network's classifier that no relation reads."""
        return {f"branches.{name}.backbone.{each}" for name in self.branches for each in self.branch(name).idle}

    def parts_of(self, name: str) -> list[str]:
        """The parts that a parameter belongs to, see `optimize.parts_of`; a given network's classifier is `logits`."""
        match name.split(".", 3):
            case ["branches", branch, "backbone", inner] if self.branch(branch).is_classifier(inner):
                return parts_of(f"branches.{branch}.heads.{LOGITS}.{inner}")
        return parts_of(name)

    def train(self, mode: bool = True) -> Step:
        """As for any module; but what is held (see `_hold_what_is_only_stopped`) stays in evaluation mode."""
        super().train(mode)
        for module in self._held:
            module.eval()
        return self

    def hold(self, parts: Collection[str]) -> None:
        """Keeps parts of the networks in evaluation mode, whatever follows. parts: names as `optimize.parts_of` has."""
        followers = tuple(f"branches.{name}." for name in self.branches if self.branch(name).spec.ema is not None)
        for name, module in self.named_modules():
            if not name.startswith(followers) and not {*self.parts_of(name)}.isdisjoint(parts):
                self._held.append(module.eval())

    def _hold_what_is_only_stopped(self) -> None:
        """Branches and heads that are read through `stop` alone are fixed: nothing of them moves or is drawn.

        They get no gradients, for which DDP would wait in vain, and stay in evaluation mode: what they say of an image
        depends on no other, and their statistics of BatchNorm stay. An EMA looks in training mode, see `ema.py`.
        """
        self._held: list[nn.Module] = []
        for name in self.branches:
            branch = self.branch(name)
            reads = [] if branch.spec.frozen else [read for read in self._reads() if read.branch == name]
            for module in branch.unmoved({read.name for read in reads if "stop" not in read.functions}):
                module.requires_grad_(False)
                if branch.spec.ema is None:
                    self._held.append(module.eval())

    def _build(self, plan: RelationPlan) -> nn.Module:
        where = f"relations.{self.recipe.relation_plan.index(plan)}: {plan.text}"
        # as if it were not there, where it looks on
        with drawn_apart("relations", plan.text) if plan.looks_on else nullcontext():
            relation = build_relation(plan, {read: self._port(read, where) for read in plan.all_reads}, where)
            init = self.branch(plan.all_reads[0].branch).spec.init
            if init is not None and getattr(relation, "init", None) is None:  # which a relation may have of its own
                init(relation)
        return relation

    def _port(self, read: Read, where: str) -> Port:
        branch = self.branch(read.branch)
        branch.check_maps(read.name, fixed_size(self.plan, read.view), where)
        return make_port(read, where, branch.dims, branch.orbits, branch.spec, self.plan, self.num_classes)

    # ------------------------------------------------------------------------------------------------------- views

    def views(
        self,
        images: Tensor | Sequence[Tensor] | Batch,
        labels: Tensor | None = None,
        index: Tensor | Sequence[int] | None = None,
        epoch: int | None = None,
        only: Collection[str] | None = None,
        stream: str = IMAGE,
    ) -> dict[str, View]:
        """All views of a stream's batch: the same arguments give the same, bit for bit, on any CPU thread or process.

        images: uint8 or float in [0, 1] [B, 3, H, W], B images [3, H, W] of unlike sizes, or a `Batch`, which has the
        rest. labels: [B]. index: the images' places in the data set [B]. epoch: which passage over it, from 0 on. only:
        names of the views wanted; by default all. Raises BatchError for what these cannot be.
        """
        return self._viewer.draw(as_batch(images, labels, index, epoch, {}), only, stream)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Raises ManyviewError: the step is compiled by its parts, see `compile_parts`."""
        refuse_compiler()

    def _replicate_for_data_parallel(self) -> NoReturn:
        refuse_replicas()

    def compile_parts(self) -> None:
        """Compiles backbones, and the rendering of views on devices (on the CPU it is compiled in any case)."""
        for name in self.branches:
            self.branch(name).backbone.compile()
        self._viewer.renderer = torch.compile(render_views, fullgraph=True)

    def test_pixels(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """What evaluation looks at, float [B, 3, h, w] in [0, 1]: the view `test`; without one, the image itself.

        An image of another size than the network was trained on is then resized to it, and cut to its shape.
        """
        return pixels_to_test(self._viewer.images(images), self.test_plan, self.trained_size, self.recipe.seed)

    # ------------------------------------------------------------------------------------------------------- train

    def forward(
        self,
        images: Tensor | Sequence[Tensor] | Mapping[str, View] | Batch,
        labels: Tensor | None = None,
        index: Tensor | Sequence[int] | None = None,
        epoch: int | None = None,
        streams: Mapping[str, Batch] = MappingProxyType({}),
    ) -> Output:
        """The loss of a batch, its terms, and class scores for the progress line.

        images: as for `views`, or views that were rendered before (then index and epoch are not needed), or a `Batch`,
        which has all the rest. labels: integers [B], needed by relations that classify; beside views that have labels,
        the same. streams: batches of the other streams that the recipe reads, as
        {"unlabeled": Batch(images, None, index, epoch)}.
        """
        if torch.compiler.is_compiling():
            refuse_compiler()
        given = as_batch(images, labels, index, epoch, streams)
        notice = self._habits.draws if self.training and torch.is_grad_enabled() else None
        views = self._viewer.given(given, self.main.mean.device, notice)
        self._check_length(moves=self.training)
        self._look_at_the_loop()
        values: dict[tuple[str, str, str], Tensor] = {}
        for name in self.branches:
            branch = self.branch(name)
            with branch.looking():
                read = branch(views, self._wanted[name])
            values.update({(name, *pair): value for pair, value in read.items()})

        terms: dict[str, Tensor] = {}
        moment = Moment(self.updates, self.progress, self.recipe.seed)
        device_type = next(iter(values.values())).device.type
        with autocast(device_type, enabled=False):
            for plan in self.recipe.relation_plan:
                weight = plan.weight.at(replace(moment, relation=plan.name))
                for call in plan.calls:
                    positional, named = called_with(call, values, views, self.num_classes)
                    result = self.relations[plan.name](*positional, **named)
                    parts = {"": result} if isinstance(result, Tensor) else result
                    for part, value in parts.items():
                        term = f"{plan.name}.{part}" if part else plan.name
                        terms[term] = terms[term] + weight * value if term in terms else weight * value
            loss = reduce(torch.add, terms.values())  # in the order of the terms, which a sum of a tensor has not
        if self.training and torch.is_grad_enabled():
            self._habits.learns(terms, self._trained)
        z = [values[(self.main.spec.name, *pair)].detach().float() for pair in self._watched]
        measures = measures_of(dict(self.relations.items()))
        return {"loss": loss, "terms": terms, "output": self._scores(values), "measures": measures, "z": z}

    def _look_at_the_loop(self) -> None:
        """Tells what this step's loop seems to have forgotten; see `habits`."""
        if not torch.is_grad_enabled():
            return
        self._habits.looked(self.training)
        if not self.training:
            return
        if self._habits.late(self.attached):
            self._habits.waits(self.waiting, self.attached)
        if not self.attached and self._habits.looks_at_parameters():
            self._habits.moves(self._trained(), self._part)
        asleep = [name for name in self.branches if not self.branch(name).backbone.training]
        self._habits.sleeps([f"branches.{name}.backbone" for name in asleep if not self._is_held(name)])

    def _trained(self) -> dict[str, nn.Parameter]:
        idle = self.idle
        return {name: each for name, each in self.named_parameters() if each.requires_grad and name not in idle}

    def _part(self, name: str) -> str:
        return (self.parts_of(name) or [name])[-1]

    def _is_held(self, name: str) -> bool:
        branch = self.branch(name)
        return any(module is branch or module is branch.backbone for module in self._held)

    def attach(self, optimizer: torch.optim.Optimizer, *more: torch.optim.Optimizer) -> RemovableHandle:
        """What follows an update follows every one of this optimiser's from now on: EMAs, queues, prototypes, averages.

        Of several optimisers give all, that which steps last at the end. Accelerate's wrapper may be given, too. The
        handle's `remove()` ends it. Warns of trainable parameters that none of them holds, as those of a relation.
        Raises ManyviewError where one is attached already, calls no hooks, or holds nothing of the step; RecipeError
        where a schedule needs `total_steps`.
        """
        self._check_length(moves=True)
        optimizers = (optimizer, *more)
        handle = self._follower.attach(optimizers[-1], self._move_on)
        try:
            check_held(optimizers, self._trained(), self._part)
        except ManyviewError:
            handle.remove()
            raise
        return handle

    @property
    def attached(self) -> bool:
        """Whether an optimiser calls what follows its updates."""
        return self._follower.attached

    @property
    def waits_for_updates(self) -> bool:
        """Whether anything follows updates: an EMA, a queue, prototypes, an average, a weight that changes."""
        return bool(self.waiting)

    @property
    def waiting(self) -> list[str]:
        """What follows updates, as a message names it."""
        emas = [f"the EMA {name}" for name in self.branches if self.branch(name).spec.ema is not None]
        plans = self.recipe.relation_plan
        changing = [f"the weight of {plan.name}" for plan in plans if plan.weight.schedule != "constant"]
        average = ["the averaged weights"] if self.average is not None else []
        return [*emas, *changing, *(f"the state of {name}" for name in self._with_state), *average]

    def after_step(self) -> None:
        """What follows an update, for loops without `attach`: to be called after every update of the optimiser.

        Raises ManyviewError where an optimiser does so itself: all would move on twice.
        """
        if self.attached:
            raise ManyviewError("after_step: the attached optimiser does this after each update; drop the call")
        self._move_on()

    def _move_on(self) -> None:
        self._check_length(moves=True)
        progress = self.progress
        for name in self.branches:
            branch = self.branch(name)
            if branch.spec.ema is not None:
                branch.follow(self._followed(branch.spec.ema), progress)
        for moving in self._with_state.values():
            moving.after_step()
        self.updates += 1
        self._habits.moved(self.updates, self.total_steps)
        if self.average is not None:
            self.average.update(self.main)

    @property
    def progress(self) -> float:
        """The part of the run that is done, updates of `total_steps`, at most 1; 0 where that length is unknown."""
        return min(1.0, self.updates / self.total_steps) if self.total_steps else 0.0

    def _check_length(self, moves: bool) -> None:
        """Raises RecipeError if a schedule follows progress in a run of unknown length, where it would stand still.

        moves: whether EMAs move, too, so that their momenta are read.
        """
        if self.total_steps:
            return
        read: dict[str, Weight | Ema] = {f"relations.{p.name}.weight": p.weight for p in self.recipe.relation_plan}
        if moves:
            momenta = {name: self.branch(name).spec.ema for name in self.branches}
            read |= {f"branches.{name}.momentum": ema for name, ema in momenta.items() if ema is not None}
        check_length(read)

    def _reads(self) -> list[Read]:
        return [read for plan in self.recipe.relation_plan for read in plan.all_reads]

    def _scores(self, values: Mapping[tuple[str, str, str], Tensor]) -> Tensor | None:
        return None if self._classified is None else scores_of(self._classified, values, self.main.orbits, self.plan)

    # ---------------------------------------------------------------------------------------------------- evaluate

    @property
    def evaluated(self) -> Branch:
        """The branch that answers: the main one, with averaged weights where `train.ema` keeps them."""
        return self.main if self.average is None else self.average.module

    @property
    def classifier(self) -> str | None:
        """The head that gives class scores: `logits`, else a joint head (SLA+SI); None if nothing classifies."""
        heads = [LOGITS, *self.main.orbits]
        return next((head for head in heads if head in self.main.inputs), None) if self.num_classes else None

    @torch.no_grad()
    def predict(self, images: Tensor | Sequence[Tensor], *, aggregated: bool = False) -> dict[str, Tensor]:
        """Features `h` [B, dim], scores `logits` [B, classes] and, on request, `aggregated` over the orbit (SLA+AG).

        images: as for `views`; put the step in evaluation mode first. With `train.ema` the averaged weights answer.
        """
        if self.training:
            self._habits.predicts()
        return self.read(self.test_pixels(images).to(self.main.mean.device), aggregated=aggregated)

    def read(self, pixels: Tensor, *, aggregated: bool = False) -> dict[str, Tensor]:
        """What `predict` gives for what `test_pixels` made; gradients reach the pixels."""
        branch, classifier = self.evaluated, self.classifier
        names = {FEATURES} if classifier is None else {FEATURES, classifier}
        joint: dict[str, Tensor] = {}
        if aggregated:
            head, view = next(((h, v) for h, v in branch.orbits.items() if v.orbit), (None, None))
            if head is None or view is None or view.orbit is None:
                raise RecipeError("nothing to aggregate: no head of this recipe tells the members of an orbit apart")
            every = [branch.read(member, {*names, head}) for member in orbit(pixels, view.orbit).unbind(dim=1)]
            rows = torch.stack([read[head].float() for read in every], dim=1).flatten(0, 1)
            joint["aggregated"], read = aggregate(rows, view.members), every[0]  # the image itself
        else:
            read = branch.read(pixels, names)
        # SLA+SI: joint logits of member 0 are every m-th column
        scores = {} if classifier is None else {LOGITS: read[classifier].float()[:, :: branch.members(classifier)]}
        return {FEATURES: read[FEATURES].float(), **scores, **joint}

    @property
    def can_aggregate(self) -> bool:
        """Whether `predict(…, aggregated=True)` is possible."""
        return any(view.orbit for view in self.main.orbits.values())

    # ------------------------------------------------------------------------------------------------------- state

    def no_weight_decay(self) -> set[str]:
        """Parameters that their backbone or head wants left out of weight decay, for timm's optimiser factory."""
        names: set[str] = set()
        for name in self.branches:
            heads = {f"heads.{head}": module for head, module in self.branch(name).heads.items()}
            for part, module in {"backbone": self.branch(name).backbone, **heads}.items():
                spared = module.no_weight_decay() if hasattr(module, "no_weight_decay") else ()
                names |= {f"branches.{name}.{part}.{parameter}" for parameter in spared}
        return names

    @property
    def backbones(self) -> dict[str, nn.Module]:
        """The backbones that are trained, by what the names of their parameters begin with."""
        own = [name for name in self.branches if self.branch(name).spec.learns]
        return {f"branches.{name}.backbone": self.branch(name).backbone for name in own}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The layer of each parameter, the last 0 and those before it negative, for timm's layer-wise lr."""
        after = layers_after(self)
        return lambda name: -after.get(name, 0)

    def get_extra_state(self) -> Tensor:
        """Updates so far: with it, `state_dict` is the whole state."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what `get_extra_state` gave."""
        self.updates = int(state)


__all__ = ["Output", "Step"]
