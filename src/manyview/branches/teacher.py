"""How a frozen teacher is opened: as a network that was given, of timm's published weights, a run, an export, a file.

It is opened wherever a step is made, since no checkpoint holds it; only where a run is judged may `Absent` stand in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from manyview.branches.given import GivenError, Network, Reader, look_at
from manyview.branches.origin import origin_of, without_origin
from manyview.branches.spec import FEATURES, LOGITS, BranchSpec
from manyview.branches.start import Start, published, weights_at
from manyview.branches.timm_arguments import timm_options
from manyview.branches.timm_models import timm_model
from manyview.branches.weights import Weights, digest_of
from manyview.branches.whole import with_classifier
from manyview.errors import RecipeError, RunError, warn
from manyview.foundation.grammar import Call, parse_call


@dataclass(frozen=True)
class Teacher:
    """A frozen network as it was opened. start: where its weights came from; None of one that was given in Python."""

    module: nn.Module
    start: Start | None = None


@final
class Absent(nn.Module):
    """What stands in for a frozen teacher where a trained run is judged, which asks nothing of it.

    columns: of its readouts, by name, as the run noted them.
    """

    def __init__(self, columns: Mapping[str, int]) -> None:
        super().__init__()
        self.columns, self.classifier = dict(columns), nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Raises GivenError: it has no weights."""
        raise GivenError("was not opened, since this step was made to be judged; to train, make one with Step(recipe)")

    def network(self) -> Network:
        """As if it had been looked at."""
        classes = self.columns.get(LOGITS, 0)
        return Network(self, "teacher", Reader("classifier"), self.columns[FEATURES], bool(classes), classes)


def open_teachers(
    specs: Mapping[str, BranchSpec], given: Mapping[str, nn.Module], read: Collection[str], channels: int
) -> dict[str, Teacher]:
    """The networks of frozen branches. given: from Python, by branch. read: branches that relations read.

    channels: of the images. Nothing is drawn from torch's generator. Raises RecipeError, naming the branch, for what is
    not there, has no weights, or is not made for such images.
    """
    teachers: dict[str, Teacher] = {}
    with torch.random.fork_rng(devices=[]):
        for name, spec in specs.items():
            if spec.frozen is not None and name in read:
                teachers[name] = _given(given[name], spec) if name in given else _opened(spec, channels)
    return teachers


def look_at_teacher(
    teacher: Teacher,
    spec: BranchSpec,
    sizes: Sequence[tuple[int, int]],
    used: Collection[str],
    classes: int,
    channels: int,
) -> Network:
    """Looks at a teacher as at any network that was given, see `look_at`, and notes where it came from.

    Raises GivenError, and RecipeError where class scores are read of one that has none.
    """
    if isinstance(teacher.module, Absent):
        return teacher.module.network()
    network = look_at(teacher.module, spec, sizes, used, False, classes, channels)
    if LOGITS in used and not network.classes:
        raise RecipeError(
            f"branches.{spec.name}: {network.name} ends in no linear classifier, so there is no {spec.name}.{LOGITS}; "
            f"follow its features, {spec.name}.{FEATURES}"
        )
    columns = {FEATURES: network.width, **({LOGITS: network.classes} if network.classes else {})}
    start = None if teacher.start is None else replace(teacher.start, columns=columns)
    return replace(network, start=start)


def _given(module: nn.Module, spec: BranchSpec) -> Teacher:
    """A teacher from Python; the user is told where the recipe names weights, which are then not read."""
    named = spec.frozen.network if spec.frozen else None
    weighed = isinstance(named, Call) and bool(named.kwargs.get("pretrained") or origin_of(named, spec.name))
    if (weighed or isinstance(named, str)) and not isinstance(module, Absent):
        warn(f"backbone: the network of {spec.name} stays as it was given; the recipe's {named} is not read")
    return Teacher(module)


def _opened(spec: BranchSpec, channels: int) -> Teacher:
    """A teacher that the recipe names."""
    where, frozen = f"branches.{spec.name}", spec.frozen
    assert frozen is not None
    if isinstance(frozen.network, str):
        weights = weights_at(frozen.network, where)
        if weights.backbone is None:
            raise RecipeError(
                f"{where}: {weights.source} does not tell what network its weights are of; write "
                f"frozen(resnet18(init={frozen.network!r})), or give the module, backbone={{'{spec.name}': model}}"
            )
        return _of_weights(parse_call(weights.backbone, where), weights, where, channels)
    if frozen.network is None:
        raise RecipeError(
            f"{where}: frozen() stands for a network that is given in Python, backbone={{'{spec.name}': model}}; "
            "or name one, as in frozen('runs/baseline') or frozen(resnet50(pretrained=True))"
        )
    call = frozen.network
    if (path := origin_of(call, where)) is not None:
        return _of_weights(call, weights_at(path, where), where, channels)
    if not call.kwargs.get("pretrained"):
        raise RecipeError(
            f"{where}: {call} has no weights, and a teacher that is drawn at random teaches nothing; write "
            f"pretrained=True, or init= with the place of a run, an export or a file"
        )
    return _of_timm(call, where, channels)


def _of_timm(call: Call, where: str, channels: int) -> Teacher:
    """With the weights and the classifier that timm publishes."""
    options, small = timm_options(call, where, channels)
    if small:
        raise RecipeError(f"{where}: small=True draws the first convolution anew; a teacher needs all of its weights")
    for ours in ("num_classes", "in_chans"):  # it has its own
        options.pop(ours, None)
    try:
        network: Any = timm_model(call.name, options)
    except RecipeError as error:
        raise RecipeError(f"{where}: {call}: {error}") from None
    looks_at = int(network.pretrained_cfg.get("input_size", (3,))[0])
    _check_channels(looks_at == channels, str(call), where, channels)
    return Teacher(network, published(network, call, where))


def _of_weights(call: Call, weights: Weights, where: str, channels: int) -> Teacher:
    """With the weights of a run, an export or a file, and the classifier that they have."""
    own = {key: value for key, value in without_origin(call).kwargs.items() if key != "pretrained"}
    _check_channels(own.pop("in_chans", channels) == channels, weights.source, where, channels)
    bare = Call(call.name, (), own)
    options, small = timm_options(bare, where, channels)

    def build(classes: int) -> Any:
        return timm_model(call.name, {**options, "num_classes": classes}, small)

    try:
        network, found = with_classifier(build, weights, str(bare))
    except (RunError, RecipeError) as error:
        raise RecipeError(f"{where}: {error}") from None
    _check_channels(not found.adapted, weights.source, where, channels)
    digest = digest_of(network.state_dict(), weights.normalization)
    told = ", ".join(found.told)
    return Teacher(network, Start(weights.source, told, digest, weights.normalization, labels=weights.labels))


def check_classes(branch: str, start: Start, classes: Sequence[str]) -> None:
    """Looks whether the scores of a teacher are of the data's classes, where the names of both are known.

    classes: of the data. Raises RecipeError where they are the same in another order; of other names it warns, since
    they may mean the same.
    """
    theirs, ours = start.labels, tuple(classes)
    if len(theirs) != len(ours) or theirs == ours or any(_are_numbers(names) for names in (theirs, ours)):
        return
    number = next(number for number, (one, two) in enumerate(zip(theirs, ours, strict=True)) if one != two)
    told = (
        f"branches.{branch}: class {number} is '{theirs[number]}' to {start.source}, and '{ours[number]}' in the data"
    )
    if set(theirs) == set(ours):
        raise RecipeError(
            f"{told}: the same classes in another order, so {branch}.{LOGITS} would teach wrong ones; name and sort "
            f"them alike, or follow {branch}.{FEATURES}"
        )
    warn(f"{told}; {branch}.{LOGITS} teaches as if they were one")


def _are_numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]


def _check_channels(fits: bool, source: str, where: str, channels: int) -> None:
    if not fits:
        raise RecipeError(f"{where}: {source} looks at images of other channels than the data, which have {channels}")
