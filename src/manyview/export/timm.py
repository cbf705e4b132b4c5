"""timm's folder format: model.safetensors and config.json, and for networks of ours the file that registers them.

model = timm.create_model("local-dir:OUT", pretrained=True)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from manyview.branches.branch import Branch
from manyview.branches.given import Given
from manyview.branches.origin import PLACES
from manyview.branches.timm_models import timm_library, timm_model
from manyview.errors import RunError
from manyview.export.beside import file_beside, name_for_timm
from manyview.export.outgoing import AGGREGATED, Outgoing, check_alike, outgoing, pictures
from manyview.foundation.files import write_bytes, write_json, write_text
from manyview.foundation.folders import filled
from manyview.foundation.taken import taken_path
from manyview.foundation.words import counted
from manyview.step import Step
from manyview.training.run import Run, run_of
from manyview.views.ops.crop import CenterCrop, Resize, as_pair
from manyview.views.plan import TEST

FILE = "model.safetensors"
OURS = (*PLACES, "num_classes", "pretrained", "small")  # arguments of a backbone that say nothing of the exported model
ANYWAY = "; --to onnx and --to torchscript take any network"


def export_timm(run: Run | str | Path, out: str | Path, *, backbone: Given | None = None) -> list[str]:
    """`export_model` for timm, with its usual choices."""
    run, out = run_of(run), taken_path(out, "export_timm: out")
    with filled(out) as folder:
        return write_timm(outgoing(run, backbone=backbone), folder, out)


def write_timm(leaving: Outgoing, folder: Path, out: Path) -> list[str]:
    """Writes a run's backbone, with its classifier if it has one, into a folder that will be `out`; returns lines.

    Only what timm builds by name can be written, as timm builds it by default, or what a file of ours registers. The
    classifier of SLA+SI is every m-th row of the joint head. Raises RunError if timm's model would not give the same.
    """
    if (why := no_place(leaving)) is not None:
        raise RunError(f"{why}{ANYWAY}")
    step, branch = leaving.step, leaving.branch
    spec = branch.spec.backbone
    weights, classes = timm_state(step, branch, features=not leaving.classes)
    small = spec.kwargs.get("small", False)
    arguments = {key: value for key, value in spec.kwargs.items() if key not in OURS}
    if leaving.channels != 3:
        arguments["in_chans"] = leaving.channels
    if branch.given and (size := getattr(getattr(branch.backbone, "patch_embed", None), "img_size", None)):
        arguments["img_size"] = size[0] if len(set(size)) == 1 else list(size)
    data = save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata={"format": "pt"})
    _check_same(leaving, spec.name, arguments, small, classes, load(data))

    name, (prepared, unlike) = name_for_timm(branch), _preprocessing(leaving)
    pretrained: dict[str, Any] = {
        "mean": branch.mean.flatten().tolist(),
        "std": branch.std.flatten().tolist(),
        "num_classes": classes,
        **prepared,
        "classifier": branch.backbone.pretrained_cfg.get("classifier", "fc"),
    }
    config = {
        "architecture": name,
        "num_classes": classes,
        "num_features": branch.dims["h"],
        "model_args": arguments,
        "pretrained_cfg": pretrained,
        "label_names": leaving.run.classes(),
        "manyview": {"recipe": leaving.recipe.title, "small": small, "weights_of": leaving.weights},
    }
    write_bytes(folder / FILE, data)
    write_json(folder / "config.json", config)
    beside = file_beside(branch)
    if beside is not None:
        write_text(folder / f"{name}.py", beside)
    return [*_lines(leaving, name, classes, beside is not None, out), *([unlike] if unlike else [])]


def no_place(leaving: Outgoing) -> str | None:
    """Why timm has no place for what leaves; None where it has one."""
    branch, head = leaving.branch, leaving.step.classifier
    name = branch.spec.backbone.name
    if leaving.answer == AGGREGATED:
        return "timm has no place for an orbit inside a network"
    if branch.given and not timm_library().is_model(name):
        return (
            f"timm knows no {name}, so there is no export; its weights are its own state_dict(), "
            "of Run(folder).step(recipe, backbone=model).evaluated.backbone"
        )
    return None if head is None or not leaving.classes else _misplaced(branch, head)


def _misplaced(branch: Branch, head: str) -> str | None:
    if not isinstance(branch.head(head), nn.Linear) or branch.inputs[head] != "h":
        return f"head '{head}' is no linear layer on h, so timm has no place for it; export works on linear(h)"
    if not isinstance(branch.backbone.pretrained_cfg.get("classifier", "fc"), str):
        return f"{branch.spec.backbone.name} has several classifiers in timm; it cannot be exported with one"
    return None


def _lines(leaving: Outgoing, name: str, classes: int, beside: bool, out: Path) -> list[str]:
    files = "config.json" if not beside else f"config.json and {name}.py"
    lines = [f"wrote {out / FILE}{',' if beside else ' and'} {files}: {name}, {counted(classes, 'class')}"]
    if beside:
        lines.append(f'{name}.py registers it with timm: import sys; sys.path.insert(0, "{out}"); import {name}')
    lines.append(f'load it with timm.create_model("local-dir:{out}", pretrained=True)')
    lines += [
        f"'{name}' is registered with timm by {each.called}" for each in leaving.recipe.words.used_in(name).origins
    ]
    return lines


def timm_state(step: Step, branch: Branch, features: bool = False) -> tuple[dict[str, Tensor], int]:
    """(state dict under timm's names, number of classes; 0 without a classifier). Raises RunError.

    features: whether to leave the classifier out.
    """
    own = branch.backbone.state_dict()
    state = {name: value.detach().clone() for name, value in own.items() if not branch.is_classifier(name)}
    head = step.classifier
    if head is None or features:
        return state, 0
    if (why := _misplaced(branch, head)) is not None:
        raise RunError(f"{why}{ANYWAY}")
    layer: Any = branch.head(head)
    members, prefix = branch.members(head), branch.backbone.pretrained_cfg.get("classifier", "fc")
    state[f"{prefix}.weight"] = layer.weight.detach()[::members].clone()
    state[f"{prefix}.bias"] = layer.bias.detach()[::members].clone()
    return state, step.num_classes


def _check_same(
    leaving: Outgoing, name: str, arguments: dict[str, Any], small: int, classes: int, weights: dict[str, Tensor]
) -> None:
    """Raises RunError unless timm's model with these weights gives the step's outputs."""
    model = timm_model(name, {"num_classes": classes, **arguments}, small)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        differs = str(error).splitlines()[1].strip()[:160]
        if not leaving.branch.given:  # a backbone of one's own, which need not be as timm's are
            raise RunError(
                f"timm's {name} with {counted(classes, 'class')} does not take its weights ({differs}); a model "
                "that is exported has its classifier where pretrained_cfg['classifier'] says, by default fc"
            ) from None
        raise RunError(
            f"the given {name} was built with arguments of its own, so timm's {name} does not take its weights "
            f"({differs}); they are its own state_dict(){ANYWAY}"
        ) from None
    pixels = pictures(5, leaving.channels, _tried(leaving, model, arguments)).float() / 255
    with torch.no_grad():
        found = model.eval()(leaving.normalized(pixels))
    check_alike(f"timm's {name}", leaving.outputs(pixels), found)


def _tried(leaving: Outgoing, model: Any, arguments: dict[str, Any]) -> tuple[int, int]:
    """A size that the network takes: its own, where it has one."""
    if leaving.size is not None:
        return leaving.size
    if "img_size" in arguments:
        own = arguments["img_size"]
        return (own, own) if isinstance(own, int) else tuple(own)
    fixed = model.pretrained_cfg.get("fixed_input_size")
    height, width = model.pretrained_cfg.get("input_size", (3, 64, 64))[-2:] if fixed else (64, 64)
    return height, width


def _preprocessing(leaving: Outgoing) -> tuple[dict[str, Any], str | None]:
    """How timm should prepare an image for this model, and what to tell where it cannot as the test view does."""
    view = None if leaving.asked else leaving.step.test_plan.get(TEST)
    share, mode, told = 1.0, "center", None
    ops = [] if view is None else [planned.op for planned in view.ops]
    match ops:
        case [] if leaving.size is not None and len({*leaving.size}) > 1:
            mode = "squash"
        case [Resize(size=int(side)), CenterCrop(size=cut)] if len({*as_pair(cut)}) == 1:
            share = _share(as_pair(cut)[0], side)
        case [Resize(size=size), *rest] if not isinstance(size, int) and rest in ([], [CenterCrop(size)]):
            mode = "squash"
        case [] | [Resize()]:
            pass
        case _:
            own = " | ".join(map(str, ops))
            told = f"timm's transform cannot do what the view '{TEST}' does ({own}); images are to be prepared by that"
    found: dict[str, Any] = {"interpolation": "bilinear", "crop_pct": share, "crop_mode": mode}
    return found if leaving.size is None else {**found, "input_size": [leaving.channels, *leaving.size]}, told


def _share(cut: int, side: int) -> float:
    """The `crop_pct` from which timm, which rounds down, makes an image of that side before it cuts."""
    shares = round(cut / side, 4), cut / side, cut / (side + 0.25)
    return next(share for share in shares if math.floor(cut / share) == side)


__all__ = ["export_timm", "timm_state", "write_timm"]
