"""A words file as a user might write it, and recipes that name what is in it: what several test modules share."""

from pathlib import Path

SPECKLE = '''
@dataclass(frozen=True)
class Speckle:
    """Grains of light of at most `strength`. Parameters: `grain` float64 [B, 4], `applied` bool [B]."""

    strength: float = 0.1
    p: float = 1.0

    def sample(self, draws, sizes):
        return {"grain": draws.uniform("grain", 4, 0.0, self.strength), "applied": draws.coin("applied", self.p)}

    def render(self, images, params):
        images = as_float(images)
        rows = torch.arange(images.shape[-2], device=images.device) % 4
        grain = params["grain"].to(images.device, images.dtype)[:, rows][:, None, :, None]
        return where_applied(params["applied"], (images + grain).clamp(0, 1), images)

    def difference(self, a, b, frame=None):
        return a["grain"] - b["grain"]

    def output_size(self, sizes):
        return sizes
'''
PULL = '''
class Pull(nn.Module):
    """Distance of unit vectors to a memory of earlier ones, which moves on with every update."""

    symmetric = True

    def __init__(self, a: Port, b: Port, *, memory: int = 4) -> None:
        super().__init__()
        check_alike(a, b)
        if memory < 1:
            raise ValueError(f"memory must be at least 1, got {memory}")
        self.mix = nn.Linear(a.dim, a.dim, bias=False)
        self.register_buffer("kept", torch.zeros(memory, a.dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.waiting = None

    def forward(self, a: Reading, b: Reading) -> torch.Tensor:
        one, other = nn.functional.normalize(self.mix(a.value)), nn.functional.normalize(b.value)
        self.waiting = other.detach().mean(dim=0)
        return {"near": (one - other).square().mean(), "past": (one.mean(dim=0) - self.kept).square().mean()}

    def after_step(self) -> None:
        self.kept[self.seen % len(self.kept)] = self.waiting
        self.seen += 1
'''
STRIPES = '''
def stripes(root, *, download, stored=None, count: int = 64, kind: str = "rows") -> RawSplits:
    """Three classes of striped pictures of 16 by 16 pixels, drawn here."""
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(count) % 3
    pixels = torch.randint(0, 60, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(labels):
        pixels[row, :, :: 2 + label] += 150
    images = ArrayImages(pixels, labels.astype(np.int64), np.arange(count), split="stripes")
    train, test = hold_out(images.labels, count // 4, seed=0, purpose="stripes test")
    return RawSplits(Subset(images, train), None, Subset(images, test), ("two", "three", "four"))
'''
CENTROIDS = '''
@dataclass(frozen=True)
class Centroids:
    """Percent of images that are nearest to the mean of their own class of train."""

    images: int = 1000

    def check(self, splits):
        if not (splits.train.labels >= 0).any():
            raise DataError("centroids: train has no labels")

    def measure(self, features, split):
        train, held = features.of("train"), features.of(split)
        means = torch.stack([train.features[train.labels == c].mean(dim=0) for c in train.labels.unique()])
        near = torch.cdist(held.features[: self.images], means).argmin(dim=1)
        return Report({"": 100 * float((near == held.labels[: self.images]).double().mean())})
'''
SQUASH = '''
def squash(out: int = 8, *, inputs: int, classes: int):
    """A linear layer and tanh."""
    return nn.Sequential(nn.Linear(inputs, out), nn.Tanh()), out
'''
NET = """
class StripeNet(nn.Module):
    def __init__(self, width=8, num_classes=0, **ignored):
        super().__init__()
        self.num_features, self.num_classes, self.pretrained_cfg = width, num_classes, {}
        self.conv, self.norm = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x)).relu().mean(dim=(2, 3))


@timm.models.register_model
def stripe_net(pretrained=False, **arguments):
    return StripeNet(**{key: value for key, value in arguments.items() if key in ("width", "num_classes")})
"""
TABLES = """
OPS = {"speckle": Speckle}
RELATIONS = {"pull": Pull}
HEADS = {"squash": squash}
SOURCES = {"stripes": stripes}
PROTOCOLS = {"centroids": Centroids}
"""
IMPORTS = '''"""Words of a test."""

from dataclasses import dataclass

import numpy as np
import timm
import torch
from torch import nn

from manyview.data import ArrayImages, Subset
from manyview.data.splits import RawSplits, hold_out
from manyview.errors import DataError
from manyview.evaluate.report import Report
from manyview.relations import Port, Reading
from manyview.relations.reading import check_alike
from manyview.views.ops.op import as_float, where_applied
'''
ALL = "\n".join([IMPORTS, SPECKLE, PULL, STRIPES, CENTROIDS, SQUASH, TABLES])
RECIPE = """
title: words of one's own
seed: 3
data: {source: "stripes(count=96)"}
views:
  a: {from: image, make: "pad_crop(16, padding=2) | speckle(0.2) | flip(0.5)"}
  b: {like: a}
branches: {net: {backbone: cresnet20, normalize: half, z: "squash(h, out=6)"}}
relations:
  - cross_entropy(logits(a), logits(b))
  - pull(z(a), z(b), memory=3, weight=0.5)
train: {epochs: 4, batch_size: 16, optimizer: "sgd(lr=0.05, momentum=0.9)", log_every: 1, checkpoint_every: 2 steps}
evaluate: [centroids()]
"""


def written(folder: Path, text: str = ALL, name: str = "words.py") -> Path:
    """A words file in a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
