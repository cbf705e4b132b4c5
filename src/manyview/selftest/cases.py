"""What is computed on one process and on several: a case for each relation, and one of two streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from manyview.data.batch import Batch
from manyview.load import parse_recipe
from manyview.step import Step

CLASSES, SIDE, OF_EACH = 5, 16, 4  # OF_EACH: images of a batch for each process
TOLD = """
seed: 3
views:
  a: {from: image, make: "crop(16, scale=(0.4, 1)) | jitter(0.4) | flip(0.5)"}
  b: {like: a}
  c: {like: a}
  r: {from: a, orbit: rotation}
  small: {from: image, make: "crop(8, scale=(0.1, 0.4)) | flip(0.5)", count: 2}
branches:
  net:
    backbone: "vit_tiny_patch16_224(dynamic_img_size=True, patch_size=8, depth=1, embed_dim=32, num_heads=2)"
    normalize: half
    joint: linear(h, orbit=r)
    turn: linear(h, 4)
    z: mlp(h, 16, 6)
    p: mlp(z, 16, 6)
    d: "dino_head(h, 12, hidden=16, bottleneck=8, freeze=1)"
  teacher: ema(net, momentum=0.7)
relations: [LINES]
train: {steps: 6, batch_size: 8, optimizer: "sgd(lr=0.1, momentum=0.9)", EXTRA}
"""
OTHER = """
data: {source: digits, unlabeled: all}
views:
  weak: {from: unlabeled, make: "pad_crop(16, padding=2)"}
  strong: {from: weak, make: "jitter(0.4) | flip(0.5)"}"""
CASES: Mapping[str, tuple[str, ...]] = {
    "agmax": ("agmax(logits(a), logits(b), hidden=16)",),
    "agreement": ("agreement(logits(a), logits(b))",),
    "augself": ("augself(h(a), h(b), crop=1.0, color=1.0)",),
    "barlow_twins": ("barlow_twins(z(a), z(b))",),
    "cosine": ("cosine(p(a), toward=teacher.z(b), swapped=True)",),
    "cross_entropy": ("cross_entropy(logits(a), logits(b), smoothing=0.1)",),
    "dino": ("dino(d(a), d(b), toward=teacher, others=d(small), warmup=2)",),
    "distill": ("joint_cross_entropy(joint(r))", "distill(logits(r.0), toward=stop(aggregate(joint(r))))"),
    "info_nce": ("info_nce(z(a), toward=teacher.z(b), queue=20, temperature=0.2)",),
    "jensen_shannon": ("jensen_shannon(logits(a), logits(b), logits(c))",),
    "joint_cross_entropy": ("joint_cross_entropy(joint(r))",),
    "lejepa": ("lejepa(z(a), z(b), others=z(small), sketch=0.1, directions=32)",),
    "nt_xent": ("nt_xent(z(a), z(b), temperature=0.2)",),
    "orbit_cross_entropy": ("orbit_cross_entropy(turn(r))",),
    "pseudo_label": ("pseudo_label(logits(a), toward=stop(logits(b)), threshold=free(momentum=0.5), fairness=0.1)",),
    "similarity": ("similarity(h(a), h(b), kind='vicreg')",),
    "supervised_contrastive": ("supervised_contrastive(z(a), z(b))",),
    "swav": ("swav(z(a), z(b), prototypes=4, freeze=1)",),
    "vicreg": ("vicreg(z(a), z(b))",),
    "two streams": ("cross_entropy(logits(a))", "pseudo_label(logits(strong), toward=stop(logits(weak)))"),
    "averaged weights": ("cross_entropy(logits(a))", "nt_xent(z(a), z(b))"),
}
"""Name -> lines of relations, each relation of `RELATIONS` among them."""


@dataclass(frozen=True)
class Case:
    """A step, and the batches that it looks at, of which each process sees its own rows."""

    name: str

    def step(self) -> Step:
        """A new one, always with the same weights."""
        lines, extra = ", ".join(f'"{line}"' for line in CASES[self.name]), "schedule: constant()"
        told = TOLD.replace("\nviews:", OTHER) if self.name == "two streams" else TOLD
        text = told.replace("LINES", lines)
        text = text.replace("EXTRA", f"{extra}, ema: 0.5" if self.name == "averaged weights" else extra)
        return Step(parse_recipe(text), CLASSES, total_steps=6)

    def batch(self, number: int, count: int, rows: slice) -> Batch:
        """Rows of a batch of so many images."""
        labels = torch.arange(count)[rows] % CLASSES
        found = Batch(_images(number, count)[rows], labels, torch.arange(count)[rows] + 50, number)
        if self.name != "two streams":
            return found
        other = Batch(_images(number + 100, count)[rows], None, torch.arange(count)[rows], number)
        return Batch(found.images, labels, found.index, number, streams={"unlabeled": other})


def _images(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
