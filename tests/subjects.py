"""Tiny models, images and runs to evaluate: what several test modules of evaluation share."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from manyview import parse_recipe
from manyview.data import ArrayImages, BadImage, Splits
from manyview.evaluate.features import Features
from manyview.evaluate.model import StepModel
from manyview.foundation.files import write_state
from manyview.step import Step
from manyview.training.run import Run

TIED = """
views:
  a: {from: image, make: "pad_crop(8, padding=1)"}
  b: {like: a}
  test: {from: image, make: resize(12)}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {epochs: 1}
"""
SLA = """
views:
  a: {from: image, make: flip(0.5)}
  r: {from: a, orbit: rotation}
branches: {net: {backbone: cresnet20, normalize: half, joint: "linear(h, orbit=r)"}}
relations: ["joint_cross_entropy(joint(r))"]
train: {epochs: 1}
"""
UNLABELED = TIED.replace("cross_entropy(logits(a), logits(b))", "similarity(h(a), h(b))")
LETTERS = "abcdefghijklmnopqrst"


def pictures(count: int, classes: int = 10, seed: int = 0, split: str = "train") -> ArrayImages:
    """Noise with labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(classes, (count,), generator=generator).numpy()
    return ArrayImages(pixels, labels, np.arange(count), split=split)


def sunny(count: int, seed: int, classes: int = 3) -> ArrayImages:
    """Images whose brightness tells their class, with noise."""
    images = pictures(count, classes, seed)
    dark = 60 * torch.from_numpy(images.labels)[:, None, None, None]
    return ArrayImages((images.pixels // 2 + dark).to(torch.uint8), images.labels, images.index, split="train")


class Broken:
    """Images of which some cannot be read."""

    def __init__(self, images, bad):
        self.whole, self.bad = images, bad
        self.labels, self.index, self.size = images.labels, images.index, None
        self.channels = images.channels

    def __len__(self):
        return len(self.whole)

    def read(self, position):
        if position in self.bad:
            raise BadImage(f"{self.name(position)}: broken")
        return self.whole.read(position)

    def name(self, position):
        return f"picture {position}"


def trained(text: str, classes: int = 10, images=None) -> Step:
    """A step whose BatchNorm has seen images, so that its scores differ from image to image; in evaluation mode."""
    step = Step(parse_recipe(text), classes)
    images = pictures(64, classes or 10, seed=9) if images is None else images
    labels = torch.from_numpy(images.labels) if classes else None
    step.train()
    for epoch in range(3):
        step(images.pixels, labels, index=images.index, epoch=epoch)
        step.after_step()
    return step.eval()


def features_of(step: Step, test=None, train=None, val=None, **options) -> Features:
    """Features of a step on these images; train is noise unless given."""
    classes = tuple(LETTERS[: step.num_classes])
    train = pictures(30, step.num_classes, seed=1) if train is None else train
    return Features(StepModel(step, classes), Splits(train, val, test, classes, "30 train, no val"), **options)


def run_of(step: Step, folder: Path) -> Run:
    """A run's folder that holds this step as its last checkpoint."""
    run, classes = Run(folder), tuple(LETTERS[: step.num_classes])
    run.begin(step.recipe, Splits(pictures(4, 2), None, None, classes, "a note"), resume=False)
    write_state(run.last, {"step": step.state_dict()})
    return run


def counted(seen: list):
    """A watch that notes what is worked on, how much of it there is, and how far it came."""

    @contextlib.contextmanager
    def watch(what, count, unit="images"):
        done = [(0, count)]
        yield lambda *reached: done.append(reached)
        seen.append((what, count, unit, done[-1]))

    return watch


def smooth():
    """A network whose gradients do not jump where a rounding differs, as those of ReLU do."""
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU()]
    second = [nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.GELU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
