"""Branches: networks that look at views and give named readouts.

A branch owns a backbone (timm's, or one that was given), heads, its normalisation, and the way views pass through it:
`joint` (all views of one size in one batch, and then all views through the heads, so that BatchNorm sees them together)
or `separate` (one view at a time; a family is one view). Only heads that some relation reads are built.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from manyview.branches.ema import follow
from manyview.branches.given import GivenError, Network, Reader, looking_on, normalization_of, tried_size
from manyview.branches.heads import TAPS, build_head
from manyview.branches.initial import drawn_apart
from manyview.branches.kept import Kept
from manyview.branches.origin import origin_of
from manyview.branches.rows import by_shape, family_read, images_of, in_order, in_pieces, joined, of_member, parted
from manyview.branches.spec import CLASSIFIER, FEATURES, LOGITS, BranchSpec, source_of
from manyview.branches.start import Start, doubt_of_normalization, start_backbone, start_head
from manyview.branches.timm_arguments import timm_options
from manyview.branches.timm_models import timm_model
from manyview.errors import ManyviewWarning, RecipeError, reason, unknown
from manyview.foundation.autocast import autocast
from manyview.foundation.grammar import Call
from manyview.views.ops.op import as_float
from manyview.views.plan import PlannedView
from manyview.views.view import View


class Branch(nn.Module):
    """One network with its heads. Built by the step; `forward` gives the readouts that are asked for, and no others.

    Arguments: spec; classes of the data set; views, the plan (for the size of orbits and images); used, the readouts
    that are needed; pretrained, see `make_backbone`; channels of the images; given, a network in place of the spec's
    backbone. Raises RecipeError for an unknown backbone or arguments that do not fit.
    """

    def __init__(
        self,
        spec: BranchSpec,
        classes: int,
        views: Mapping[str, PlannedView],
        used: Collection[str],
        pretrained: bool = True,
        channels: int = 3,
        given: Network | None = None,
    ) -> None:
        super().__init__()
        if given is not None and pretrained:
            _tell_unread(spec)
        self.spec = spec if given is None else replace(spec, backbone=Call(given.name))
        self.kept: Kept | None = None  # of a frozen branch: what it says of each image, in the place of its passes
        self.most: int | None = None  # images that pass the backbone at once while it learns; None for all
        self.given = given is not None
        self.backbone: Any
        if given is None:
            self.backbone = make_backbone(spec.backbone, f"branches.{spec.name}.backbone", pretrained, channels)
            width = getattr(self.backbone, "head_hidden_size", self.backbone.num_features)
        else:
            self.backbone, width = given.module, given.width
        self.reader = Reader() if given is None else given.reader
        known = given.start.normalization if given is not None and given.start is not None else None
        usual = normalization_of(self.backbone) if channels == 3 else ((0.5,), (0.5,))
        mean, std = spec.normalize or known or usual
        device = None if given is None else given.device
        for name, values in (("mean", mean), ("std", std)):
            each = torch.tensor(values, device=device).expand(channels).reshape(1, -1, 1, 1)
            self.register_buffer(name, each.clone(), persistent=False)
        self.mean: Tensor
        self.std: Tensor

        self.inputs: dict[str, str] = {}  # head -> the readout it reads, in order of computation
        self.stopped: set[str] = set()  # heads that read it without gradient
        self.taps: dict[str, str] = {}  # readout -> layer of the backbone
        self.orbits: dict[str, PlannedView] = {}  # head -> the orbit it tells apart
        self.dims: dict[str, int] = {FEATURES: width}
        self.heads = nn.ModuleDict()
        self._measured: tuple[int, int] | None = None  # the size of the view that layers were measured on
        calls = dict(spec.heads)
        calls.setdefault(LOGITS, CLASSIFIER)
        needed = _needed(calls, used)
        for name, call in calls.items():
            if name in needed and call.name in TAPS:
                self.taps[name] = self._layer(call.args[0], f"branches.{spec.name}.{name}")
        if self.taps:
            self.dims |= self._tap_widths(views)
        made = [name for name, call in calls.items() if name in needed and call.name not in TAPS]
        for name in (name for name in calls if name not in spec.probes):
            if name == LOGITS and given is not None and given.trains:
                self.dims[name], self.inputs[name] = given.classes, FEATURES
            elif name in made:
                self._add_head(name, calls[name], classes, views)
        if spec.init is not None:
            spec.init(self if given is None else self.heads)
        for name in (name for name in calls if name in spec.probes):  # last, so that all else is as without them
            if name == LOGITS and given is not None and given.trains:
                self.dims[name], self.inputs[name] = given.classes, FEATURES
                self.stopped.add(name)
            elif name in made:
                with drawn_apart(spec.name, name):
                    self._add_head(name, calls[name], classes, views)
                    if spec.init is not None:
                        spec.init(self.heads[name])
        self.starts: dict[str, Start] = self._started() if pretrained else {}
        if spec.frozen is not None:
            self.starts = {"backbone": given.start} if given is not None and given.start is not None else {}
            # past the way in which torch takes in modules
            self.__dict__["backbone"] = self._modules.pop("backbone").eval().requires_grad_(False)  # type: ignore[union-attr]

    def _apply(self, fn: Any, recurse: bool = True) -> Branch:
        """As for any module; what stands aside moves, too."""
        if self.spec.frozen is not None:
            self.backbone._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Inside, readouts have gradients only of a branch that learns, and a frozen one's precision is its own."""
        frozen = self.spec.frozen
        if frozen is not None and self.backbone.training:  # put there by what else holds the module
            self.backbone.eval()
        precision: Any = contextlib.nullcontext()
        if frozen is not None and frozen.precision is not None:
            precision = autocast(self.mean.device.type, enabled=frozen.precision == "bf16")
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.spec.learns), precision:
            yield

    def _started(self) -> dict[str, Start]:
        """Where the backbone's weights come from, and those of heads, once they are there; what has none is drawn."""
        spec, where = self.spec, f"branches.{self.spec.name}"
        found = {"backbone": start_backbone(self.backbone, spec.backbone, f"{where}.backbone")}
        for head in self.heads:
            if head in spec.heads:
                call = spec.heads[head]
                found[head] = start_head(self.heads[head], call, head, self.backbone, f"{where}.{head}")
        starts = {part: start for part, start in found.items() if start is not None}
        ours = tuple(self.mean.flatten().tolist()), tuple(self.std.flatten().tolist())
        if "backbone" in starts and (doubt := doubt_of_normalization(starts["backbone"], ours, where)):
            warnings.warn(doubt, ManyviewWarning, stacklevel=4)
        return starts

    def head(self, name: str) -> nn.Module:
        """The network of a head; `logits` of a given network that ends in its classifier is that layer."""
        own = self.reader.classifier
        return self.backbone.get_submodule(own) if name not in self.heads and own else self.heads[name]

    def is_classifier(self, name: str) -> bool:
        """Whether a layer or parameter of the backbone is a given network's classifier, or of it."""
        own = self.reader.classifier
        return own is not None and f"{name}.".startswith(f"{own}.")

    @property
    def idle(self) -> list[str]:
        """Parameters of the backbone that no loss reaches: those of a classifier that no relation reads."""
        if self.spec.frozen is not None:
            return []
        if LOGITS in self.inputs and LOGITS not in self.heads:
            return []
        return [name for name, _ in self.backbone.named_parameters() if self.is_classifier(name)]

    def network_copied(self) -> Network | None:
        """A given network's copy, which an EMA begins as; None for one that was not given."""
        if not self.given:
            return None
        trains = LOGITS in self.inputs and LOGITS not in self.heads
        name = self.spec.backbone.name
        classes = self.dims[LOGITS] if trains else 0
        return Network(self.backbone, name, self.reader, self.dims[FEATURES], trains, classes).copied()

    def _add_head(self, name: str, call: Call, classes: int, views: Mapping[str, PlannedView]) -> None:
        reads, stopped = source_of(call)
        assert reads is not None
        built = build_head(call, self.dims[reads], classes, views, f"branches.{self.spec.name}.{name}", self.spec.words)
        self.heads[name], self.dims[name], self.inputs[name] = built.module, built.width, reads
        if stopped:
            self.stopped.add(name)
        if built.orbit is not None:
            self.orbits[name] = built.orbit

    def _layer(self, layer: str, where: str) -> str:
        names = [name for name, _ in self.backbone.named_modules() if name]
        if layer not in names:
            raise RecipeError(f"{where}: {unknown('layer', layer, [name for name in names if name.count('.') < 2])}")
        if self.is_classifier(layer):
            raise RecipeError(f"{where}: layer '{layer}' is the given network's classifier; read {LOGITS}")
        return layer

    def check_maps(self, readout: str, size: tuple[int, int] | None, where: str) -> None:
        """Raises RecipeError where a readout holds whole maps of views of another size than they were measured on.

        size: height and width of the view, None if its ops do not fix them.
        """
        while readout in self.inputs:
            readout = self.inputs[readout]
        whole = readout in self.taps and self.spec.heads[readout].name == "maps"
        if whole and size not in (None, self._measured):
            sizes = " and ".join("{}x{}".format(*each) for each in (self._measured, size) if each)
            raise RecipeError(f"{where}: views of {sizes} have unlike maps; read views of one size, or pool")

    @torch.no_grad()
    def _tap_widths(self, views: Mapping[str, PlannedView]) -> dict[str, int]:
        """Widths of the layers that are read, from one image of the size the first view has."""
        self._measured = tried_size(self.backbone, views)
        with looking_on(self.backbone):
            images = torch.zeros(1, len(self.mean.flatten()), *self._measured, device=self.mean.device)
            values = self._features(images)
        return {name: values[name].shape[1] for name in self.taps}

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        """h and the layers that are read, each [rows, width], in one pass of the backbone."""
        normalized = (as_float(images) - self.mean) / self.std
        values: dict[str, Tensor] = {}
        learns = torch.is_grad_enabled()
        if (
            self.given
            and (lies := next((p.device for p in self.backbone.parameters()), images.device)) != images.device
        ):
            raise self._of_given(f"lies on {lies}, and the rest of the step on {images.device}; call step.to('{lies}')")
        with contextlib.ExitStack() as hooks:
            for name, layer in self.taps.items():

                def keep(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                    if learns and not torch.is_grad_enabled():
                        raise RecipeError(
                            f"branches.{self.spec.name}.{name}: layer '{self.taps[name]}' runs without gradients, as "
                            "in a checkpoint with use_reentrant=True; use False"
                        )
                    values[name] = TAPS[self.spec.heads[name].name](output)

                hooks.callback(self.backbone.get_submodule(layer).register_forward_hook(keep).remove)
            try:
                values[FEATURES] = self.reader(self.backbone, normalized)
            except AssertionError as error:  # timm's way to refuse an image's size
                size = "x".join(map(str, images.shape[-2:]))
                raise RecipeError(
                    f"branches.{self.spec.name}.backbone: {self.spec.backbone} cannot read views of {size}: "
                    f"{reason(error)}"
                ) from None
            except GivenError as error:
                raise self._of_given(str(error)) from None
        if learns and self.given and not values[FEATURES].requires_grad and not normalized.requires_grad:
            self._check_learns()
        return values

    def _check_learns(self) -> None:
        """Raises ManyviewError where a given network's feature has no gradient, though weights below it want one."""
        if any(each.requires_grad and not self.is_classifier(name) for name, each in self.backbone.named_parameters()):
            raise self._of_given("gives a feature without gradients; look for no_grad() and detach() in its forward")

    def _of_given(self, told: str) -> GivenError:
        return GivenError(f"branches.{self.spec.name}: the given {self.spec.backbone.name} {told}")

    def forward(
        self, views: Mapping[str, View], wanted: Collection[tuple[str, str]], stops: bool = True
    ) -> dict[tuple[str, str], Tensor]:
        """Readouts of views. wanted: pairs (readout, view), a view being a name or a member `r.0`.

        stops: whether heads that read stopped readouts keep gradients back.

        Returns pair -> [rows, dim]. A member whose family is read as well is a slice of it and costs nothing.
        """
        if self.kept is not None and (known := self.kept.of(views, wanted)) is not None:
            return known
        needed = self.with_inputs(wanted)
        read = {view for _, view in needed}
        roots = {view: family_read(view, read) for view in read}
        order = [view for view in dict.fromkeys(in_order(views)) if view in set(roots.values())]
        images = {view: images_of(views, view) for view in order}

        values: dict[tuple[str, str], Tensor] = {}
        alone = [[view] for view in order]
        for group in by_shape(images) if self.spec.joint else alone:
            rows = joined([images[view] for view in group])
            features = in_pieces(self._features, rows, self.most if self.training else None)
            for name, value in features.items():
                parts = parted(value, [images[view].shape[0] for view in group])
                values.update({(name, view): part for view, part in zip(group, parts, strict=True)})
        for group in [order] if self.spec.joint else alone:
            for head, source in self.inputs.items():
                asked = [view for name, view in needed if name == head and roots[view] in group]
                # a member of a family that the head reads as a whole is a slice of its output
                asked = [view for view in asked if roots[view] == view or roots[view] not in asked]
                if asked:
                    inputs = [self._value(values, source, view, roots, views) for view in asked]
                    rows = joined(inputs)
                    rows = rows.detach() if stops and head in self.stopped else rows
                    parts = parted(self.head(head)(rows), [value.shape[0] for value in inputs])
                    values.update({(head, view): part for view, part in zip(asked, parts, strict=True)})
        return {(name, view): self._value(values, name, view, roots, views) for name, view in wanted}

    @staticmethod
    def _value(
        values: Mapping[tuple[str, str], Tensor],
        name: str,
        view: str,
        roots: Mapping[str, str],
        views: Mapping[str, View],
    ) -> Tensor:
        """A readout as it was computed, or as a slice of its family's."""
        found = values.get((name, view))
        return of_member(values[name, roots[view]], view, views) if found is None else found

    def with_inputs(self, wanted: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Pairs (readout, view) that are asked for, and those that are computed on the way."""
        needed = set(wanted)
        for head, source in reversed(self.inputs.items()):
            needed |= {(source, view) for name, view in set(needed) if name == head}
        return sorted(needed)  # a set's order changes from process to process, and with it the sums over rows

    def unmoved(self, readouts: Collection[str]) -> list[nn.Module]:
        """The parts that gradients of these readouts do not reach."""
        reached = set(readouts)
        for head, source in reversed(self.inputs.items()):
            if head in reached and head not in self.stopped:
                reached.add(source)
        heads = [self.head(head) for head in self.inputs if head not in reached]
        backbone = [] if reached & {FEATURES, *self.taps} else [self.backbone]
        return [*heads, *backbone] if reached else [self]

    def begin_as(self, online: Branch) -> None:
        """Makes this branch, an EMA, a copy of the one it follows. Raises RecipeError for heads that nothing trains."""
        for head in self.inputs:
            if head not in online.inputs:
                raise RecipeError(
                    f"branches.{self.spec.name}: {head} is read of the EMA, but no relation trains {online.spec.name}'s"
                )
        theirs = online.state_dict()
        self.load_state_dict({name: theirs[name] for name in self.state_dict()})
        self.requires_grad_(False)

    def follow(self, online: Branch, progress: float) -> None:
        """Moves this branch, an EMA, towards the one it follows; progress of the run: 0 to 1."""
        assert self.spec.ema is not None
        follow(self, online, self.spec.ema.at(progress))

    def members(self, head: str | None) -> int:
        """How many members of an orbit a head tells apart; 1 for a head that tells none."""
        return self.orbits[head].members if head in self.orbits else 1

    def read(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Readouts of images that are no view, for evaluation. images: [B, C, h, w] -> name -> [B, dim].

        Gradients reach the images through all heads.
        """
        values = self.forward({"images": View(images)}, [(name, "images") for name in names], stops=False)
        return {name: value for (name, _), value in values.items()}


def make_backbone(call: Call, where: str, pretrained: bool = True, channels: int = 3) -> Any:
    """A timm model without classifier, from `resnet18(small=True, …)`; arguments but `small` are timm's.

    pretrained: False leaves published weights where they are, since a checkpoint follows. What `init=` names is put in
    afterwards, see `start_backbone`, and stands in for published weights. channels: of the images; for
    other than 3, timm repeats or sums the published weights of the first layer.
    Raises RecipeError for names timm does not know, arguments the model does not take, and weights it cannot fetch.
    """
    options, small = timm_options(call, where, channels)
    if not pretrained or origin_of(call, where):
        options.pop("pretrained", None)
    try:
        model = timm_model(call.name, options, small, where)
    except RecipeError as error:
        raise RecipeError(f"{where}: {call}: {error}") from None
    return model.to(memory_format=torch.channels_last)


def _tell_unread(spec: BranchSpec) -> None:
    """Warns where a recipe says what weights to begin with, and a network was given that has its own."""
    origin = origin_of(spec.backbone, f"branches.{spec.name}.backbone")
    if origin is not None:
        told = f"backbone: the network of {spec.name} stays as it was given; the recipe's {origin!r} is not read"
        warnings.warn(told, ManyviewWarning, stacklevel=5)


def _needed(calls: Mapping[str, Call], used: Collection[str]) -> set[str]:
    """Heads in use and, for each, the heads below it."""
    needed = set(used)
    for name, call in reversed(list(calls.items())):
        source = source_of(call)[0]
        if name in needed and source is not None:
            needed.add(source)
    return needed
