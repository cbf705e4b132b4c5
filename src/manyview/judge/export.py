"""A trained model leaves as what timm loads by itself: model.safetensors and config.json in a folder.

model = timm.create_model("local-dir:OUT", pretrained=True)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from manyview.branches.branch import Branch
from manyview.branches.given import Given
from manyview.branches.origin import PLACES
from manyview.branches.timm_models import timm_library, timm_model
from manyview.errors import RunError
from manyview.foundation.files import write_bytes, write_json
from manyview.foundation.taken import taken_path
from manyview.foundation.words import counted
from manyview.step import Step
from manyview.training.run import Run, run_of
from manyview.views.ops.crop import CenterCrop, Resize
from manyview.views.plan import TEST, fixed_size

OURS = (*PLACES, "num_classes", "pretrained", "small")  # arguments of a backbone that say nothing of the exported model


def export_timm(run: Run | str | Path, out: str | Path, *, backbone: Given | None = None) -> list[str]:
    """Writes a run's backbone, with its classifier if it has one, as timm's folder format; returns lines to print.

    run: or its folder. backbone: as it was given to `train`; only what timm builds by name can be written, as timm
    builds it by default. The classifier of SLA+SI is every m-th row of the joint head. Raises RunError if `out` exists
    and is not empty, or if timm's model would not give the same outputs.
    """
    run, out = run_of(run), taken_path(out, "export_timm: out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty; choose another folder")
    recipe = run.recipe()
    step = run.step(recipe, backbone=backbone)
    branch = step.evaluated
    if branch.given and not timm_library().is_model(branch.spec.backbone.name):
        raise RunError(
            f"timm knows no {branch.spec.backbone.name}, so there is no export; its weights are its own state_dict(), "
            "of Run(folder).step(recipe, backbone=model).evaluated.backbone"
        )
    weights, classes = timm_state(step, branch)
    spec = branch.spec.backbone
    small = bool(spec.kwargs.get("small"))
    arguments = {key: value for key, value in spec.kwargs.items() if key not in OURS}
    channels = branch.mean.shape[1]
    if channels != 3:
        arguments["in_chans"] = channels
    if branch.given and (size := getattr(getattr(branch.backbone, "patch_embed", None), "img_size", None)):
        arguments["img_size"] = size[0] if len(set(size)) == 1 else list(size)
    _check_same(branch, step, spec.name, arguments, small, classes, weights)

    pretrained: dict[str, Any] = {
        "mean": branch.mean.flatten().tolist(),
        "std": branch.std.flatten().tolist(),
        "num_classes": classes,
        **_preprocessing(step),
        "classifier": branch.backbone.pretrained_cfg.get("classifier", "fc"),
    }
    config = {
        "architecture": spec.name.split(".")[0],
        "num_classes": classes,
        "num_features": branch.dims["h"],
        "model_args": arguments,
        "pretrained_cfg": pretrained,
        "label_names": run.classes(),
        "manyview": {"recipe": recipe.title, "small": small, "weights_of": "averaged" if step.average else "trained"},
    }
    out.mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata={"format": "pt"})
    write_bytes(out / "model.safetensors", data)
    write_json(out / "config.json", config)
    lines = [f"wrote {out / 'model.safetensors'} and config.json: {spec.name}, {counted(classes, 'class')}"]
    if small:
        lines.append(f"its stem is the small one: before loading, model.conv1 = nn.Conv2d({channels}, C, 3, 1, 1, "
                     "bias=False); model.maxpool = nn.Identity()")  # fmt: skip
    else:
        lines.append(f'load it with timm.create_model("local-dir:{out}", pretrained=True)')
    for origin in recipe.words.used_in(spec.name).origins:
        lines.append(f"'{spec.name}' is registered with timm by {origin.called}")
    if type(branch.backbone).__module__.startswith("manyview."):
        lines.append(f"'{spec.name}' is registered with timm by `import manyview.branches.backbones`")
    return lines


def timm_state(step: Step, branch: Branch) -> tuple[dict[str, Tensor], int]:
    """(state dict under timm's names, number of classes; 0 without a classifier). Raises RunError."""
    own = branch.backbone.state_dict()
    state = {name: value.detach().clone() for name, value in own.items() if not branch.is_classifier(name)}
    head = step.classifier
    if head is None:
        return state, 0
    layer = branch.head(head)
    if not isinstance(layer, nn.Linear) or branch.inputs[head] != "h":
        raise RunError(f"head '{head}' is no linear layer on h, so timm has no place for it; export works on linear(h)")
    members = branch.members(head)
    prefix: Any = branch.backbone.pretrained_cfg.get("classifier", "fc")
    if not isinstance(prefix, str):
        raise RunError(f"{branch.spec.backbone.name} has several classifiers in timm; it cannot be exported with one")
    state[f"{prefix}.weight"] = layer.weight.detach()[::members].clone()
    state[f"{prefix}.bias"] = layer.bias.detach()[::members].clone()
    return state, step.num_classes


@torch.no_grad()
def _check_same(
    branch: Branch,
    step: Step,
    name: str,
    arguments: dict[str, Any],
    small: bool,
    classes: int,
    weights: dict[str, Tensor],
) -> None:
    """Raises RunError unless timm's model with these weights gives the step's outputs."""
    model = timm_model(name, {"num_classes": classes, **arguments}, small)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        differs = str(error).splitlines()[1].strip()[:160]
        if not branch.given:  # a backbone of one's own, which need not be as timm's are
            raise RunError(
                f"timm's {name} with {counted(classes, 'class')} does not take its weights ({differs}); a model "
                "that is exported has its classifier where pretrained_cfg['classifier'] says, by default fc"
            ) from None
        raise RunError(
            f"the given {name} was built with arguments of its own, so timm's {name} does not take its weights "
            f"({differs}); they are its own state_dict()"
        ) from None
    channels = branch.mean.shape[1]
    pixels = torch.rand(2, channels, *[arguments.get("img_size", 64)] * 2)
    size = (
        model.pretrained_cfg.get("input_size", (3, 64, 64))[-2:]
        if model.pretrained_cfg.get("fixed_input_size")
        else None
    )
    if size is not None and "img_size" not in arguments:
        pixels = torch.rand(2, channels, *size)
    theirs = model.eval()((pixels - branch.mean) / branch.std)
    read = branch.eval().read(pixels, [step.classifier or "h"])[step.classifier or "h"]
    members = branch.members(step.classifier)
    if not torch.allclose(theirs, read[:, ::members], rtol=1e-4, atol=1e-5):
        raise RunError(f"timm's {name} does not reproduce this model's outputs; please report it with the recipe")


def _preprocessing(step: Step) -> dict[str, Any]:
    """How timm should prepare an image for this model, from the test view or the size it was trained on."""
    sides: list[int] = []
    for view in step.test_plan.values():
        sides = [
            op.op.size for op in view.ops if isinstance(op.op, (Resize, CenterCrop)) and isinstance(op.op.size, int)
        ]
    size = (fixed_size(step.test_plan, TEST) if step.test_plan else None) or step.trained_size
    found: dict[str, Any] = {"interpolation": "bilinear", "crop_pct": round(sides[-1] / sides[0], 4) if sides else 1.0}
    return found if size is None else {**found, "input_size": [step.main.mean.shape[1], *size]}
