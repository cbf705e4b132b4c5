"""Whether what leaves needs no manyview, and answers as the runs do:  python benchmarks/exports.py DATA OUT --python PY

Trains each network for some updates on CIFAR-10 (in DATA), takes it out in every form, and lets an interpreter to which
manyview is unknown, with torch, timm, safetensors and onnxruntime, read test images through all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from manyview.data import Splits, open_splits
from manyview.export.export import export_model
from manyview.foundation.files import write_state
from manyview.load import parse_recipe
from manyview.recipe.recipe import Recipe
from manyview.step import Step
from manyview.training.run import Run

PLAIN = """
title: {name}
data: {{source: cifar10, val_fraction: 0, limit: 256}}
views:
  a: {{from: image, make: "pad_crop(32, padding=4) | flip(0.5)"}}
branches: {{net: {{backbone: "{backbone}", normalize: cifar10}}}}
relations: ["cross_entropy(logits(a))"]
train: {{steps: {steps}, ema: 0.5}}
"""
SLA = """
title: {name}
data: {{source: cifar10, val_fraction: 0, limit: 256}}
views:
  a: {{from: image, make: "pad_crop(32, padding=4) | flip(0.5)"}}
  r: {{from: a, orbit: rotation}}
branches: {{net: {{backbone: "{backbone}", normalize: half, joint: "linear(h, orbit=r)"}}}}
relations: ["joint_cross_entropy(joint(r))"]
train: {{steps: {steps}}}
"""
NETWORKS = {
    "ResNet-18": (PLAIN, "resnet18"),
    "ResNet-18 small": (PLAIN, "resnet18(small=True)"),
    "WRN-28-2": (PLAIN, "wrn28_2"),
    "cresnet20": (PLAIN, "cresnet20"),
    "ViT": (PLAIN, "vit_tiny_patch16_224(img_size=32, patch_size=4)"),
    "SLA+SI": (SLA, "cresnet20"),
    "SLA+AG": (SLA, "cresnet20"),
}
# What somebody runs who has no manyview.
READER = """
import importlib, json, sys
from pathlib import Path
try:
    import manyview
except ImportError:
    pass
else:
    sys.exit("this interpreter knows manyview")
import onnxruntime, timm, torch
from safetensors.torch import load_file
root, found = Path(sys.argv[1]), {}
images = load_file(root / "images.safetensors")["images"]
wanted = load_file(root / "wanted.safetensors")
for place in sorted(each for each in root.glob("*/*") if each.parent.name != "runs"):
    name, form = place.parent.name, place.name
    told = json.loads((place / ("config.json" if form == "timm" else "model.json")).read_text())
    told = told.get("pretrained_cfg", told)
    mean, std = (torch.tensor(told[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    pixels = (images.float() / 255 - mean) / std
    with torch.no_grad():
        if form == "timm":
            for beside in place.glob("*.py"):
                sys.path.insert(0, str(place))
                importlib.import_module(beside.stem)
            scores = timm.create_model(f"local-dir:{place}", pretrained=True).eval()(pixels)
        elif form == "torchscript":
            scores = torch.jit.load(place / "model.pt")(pixels)
        else:
            session = onnxruntime.InferenceSession(str(place / "model.onnx"), providers=["CPUExecutionProvider"])
            whole = images.permute(0, 2, 3, 1).contiguous() if form == "onnx, whole images" else pixels
            scores = torch.from_numpy(session.run(None, {"images": whole.numpy()})[0])
    found[f"{name}/{form}"] = float((scores.double() - wanted[name].double()).abs().max())
print(json.dumps(found))
"""
FORMS = {
    "timm": {"to": "timm"},
    "torchscript": {"to": "torchscript"},
    "onnx": {"to": "onnx"},
    "onnx, whole images": {"to": "onnx", "preprocess": "nhwc"},
}


def begin(recipe: Recipe, splits: Splits, run: Run, steps: int) -> None:
    """Some updates, and their weights as a run has them; they are not measured."""
    step = Step(recipe, len(splits.classes)).train()
    optimizer = torch.optim.SGD(step.parameters(), lr=0.01, momentum=0.9)
    step.attach(optimizer)
    for number in range(steps):
        places = range(32 * number % 256, 32 * number % 256 + 32)
        images = torch.stack([splits.train.read(place) for place in places])
        labels = torch.from_numpy(splits.train.labels[[*places]])
        step(images, labels, index=places, epoch=number)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    run.begin(recipe, splits, resume=False)
    write_state(run.last, {"step": step.state_dict()})


def main() -> None:
    """Prints a table of the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", required=True, help="an interpreter without manyview")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    wanted: dict[str, torch.Tensor] = {}
    seconds: dict[str, dict[str, float]] = {}
    for name, (text, backbone) in NETWORKS.items():
        text = text.format(name=name, backbone=backbone, steps=args.steps)
        recipe = parse_recipe(text, f"data.root='{args.data.resolve()}'")
        run, aggregated = Run(args.out / "runs" / name), name == "SLA+AG"
        splits = open_splits(recipe.data, recipe.seed)
        begin(recipe, splits, run, args.steps)
        images = torch.stack([splits.test.read(position) for position in range(32)])
        read = run.step(recipe).predict(images, aggregated=aggregated)
        wanted[name] = read["aggregated" if aggregated else "logits"].contiguous()
        for form, options in FORMS.items():
            if aggregated and form == "timm":
                continue
            began = time.perf_counter()
            export_model(run, args.out / name / form, aggregate=aggregated, **options)
            seconds.setdefault(name, {})[form] = time.perf_counter() - began
        print(f"{name}: out in {len(seconds[name])} forms", flush=True)
    save_file({"images": images.contiguous()}, args.out / "images.safetensors")
    save_file(wanted, args.out / "wanted.safetensors")
    command = [args.python, "-c", READER, str(args.out.resolve())]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=args.out).stdout)
    print(f"| network | largest score | {' | '.join(FORMS)} |\n| --- {'| --- ' * (len(FORMS) + 1)}|")
    for name, scores in wanted.items():
        cells = []
        for form in FORMS:
            apart = found.get(f"{name}/{form}")
            cells.append("no place" if apart is None else f"{apart:.1e} ({seconds[name][form]:.0f} s)")
        print(f"| {name} | {float(scores.abs().max()):.2f} | {' | '.join(cells)} |")
    worst = max(found.values())
    print(f"\nlargest difference of all: {worst:.2g}, {'at most' if worst <= 1e-5 else 'MORE THAN'} 1e-5")


if __name__ == "__main__":
    main()
