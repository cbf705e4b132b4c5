"""A run whose weights are shared out over two processes: the weights it ends with, its checkpoints, what is refused."""

import json

import pytest
import torch

from commands import done
from manyview import parse_recipe
from manyview.branches.blocks import blocks_of
from manyview.branches.weights import open_weights
from manyview.errors import ManyviewWarning, RunError
from manyview.foundation.files import read_state
from manyview.training.run import Run
from manyview.training.train import train
from processes import on_two

VIT = "vit_tiny_patch16_224(img_size=8, patch_size=4, depth=2, embed_dim=32, num_heads=2)"
RECIPE = f"""
seed: 3
data: {{source: digits, limit: 96}}
views: {{a: {{from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}}, b: {{like: a}}}}
branches:
  net: {{backbone: "{VIT}", normalize: half, z: "mlp(h, 16, 8)"}}
  teacher: ema(net, momentum=0.9)
relations:
  - cross_entropy(logits(a))
  - info_nce(z(a), toward=teacher.z(b), queue=16, temperature=0.2)
  - swav(z(a), z(b), prototypes=8, freeze=2)
train: {{steps: 20, batch_size: 8, log_every: 5, checkpoint_every: 10 steps, schedule: constant(), ema: 0.9, clip: 1.0,
         optimizer: "adamw(lr=0.003, weight_decay=0.01)"}}
"""
CASES = {
    "adamw": (),
    "sam": ("train.optimizer=sam(sgd(lr=0.02, momentum=0.9), rho=0.05)", "train.accumulate=2"),
    "batchnorm": ("branches.net.backbone=resnet18(small=True, block_args={})", "train.optimizer=sgd(lr=0.01)"),
}


def worker(rank, folder):
    for name, overrides in CASES.items():
        if name == "batchnorm":
            continue
        recipe = parse_recipe(RECIPE, *overrides)
        train(recipe, f"{folder}/{name}-whole", quiet=True)
        train(recipe.model_copy(update={"train": recipe.train.model_copy(update={"shard": True})}), f"{folder}/{name}", quiet=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    on_two(worker, str(folder))
    return folder


def weights(folder):
    return read_state(folder / "checkpoints" / "last.pt")


def test_x(two):
    for name in ("adamw", "sam"):
        a, b = weights(two / f"{name}-whole"), weights(two / name)
        assert a["step"].keys() == b["step"].keys()
        print(name, max(float((a["step"][k].float() - b["step"][k].float()).abs().max()) for k in a["step"]))
        import os
        print(sorted(os.listdir(two / name / "checkpoints")))
        print(json.loads((two / name / "result.json").read_text())["eval"], json.loads((two / f"{name}-whole" / "result.json").read_text())["eval"])
