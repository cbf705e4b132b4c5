"""Small recipes of digits, and a comparison of three of them, trained once for all that look at it."""

from pathlib import Path

import pytest

from manyview.compare.compare import compare

TWO_VIEWS = """
title: two views of digits
data: {source: digits, limit: 120}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}
  b: {like: a}
branches: {net: {backbone: cresnet20, normalize: half}}
relations:
  - cross_entropy(logits(a), logits(b))
train:
  epochs: 2
  batch_size: 24
  optimizer: "sgd(lr=0.05, momentum=0.9)"
  schedule: "multistep(at=(0.5,), warmup='2 steps')"
evaluate: [knn(k=5)]
"""
ONE_VIEW = TWO_VIEWS.replace("logits(a), logits(b)", "logits(a)").replace("batch_size: 24", "batch_size: 16")
ROTATED = """
title: SLA on digits
data: {source: digits, limit: 120}
views:
  a: {from: image, make: "pad_crop(8, padding=1)"}
  r: {from: a, orbit: rotation}
branches: {net: {backbone: cresnet20, normalize: half, joint: "linear(h, orbit=r)"}}
relations: [joint_cross_entropy(joint(r))]
train: {epochs: 2, batch_size: 24, optimizer: "sgd(lr=0.05)", schedule: "cosine()"}
evaluate: [knn(k=5)]
"""
TEACHER = """
title: a teacher on digits
data: {source: digits, limit: 120}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}
  b: {like: a}
branches:
  net: {backbone: cresnet20, normalize: half, z: "projector(h, 16)", p: "predictor(z, 8)"}
  teacher: ema(net, momentum=0.9)
relations: ["cosine(p(a), toward=teacher.z(b), swapped=True)"]
train: {epochs: 2, batch_size: 24, optimizer: "sgd(lr=0.05)", schedule: "cosine()"}
evaluate: [knn(k=5)]
"""


@pytest.fixture(scope="session")
def recipes(tmp_path_factory) -> dict[str, str]:
    """Recipe files by name."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in {"two": TWO_VIEWS, "one": ONE_VIEW, "sla": ROTATED, "teacher": TEACHER}.items():
        (folder / f"{name}.yaml").write_text(text)
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="session")
def compared(recipes, tmp_path_factory) -> tuple[Path, dict]:
    """A finished comparison: (folder, what compare.json holds)."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    return folder, compare([recipes["two"], recipes["one"], recipes["sla"]], folder, seeds=2, quiet=True)
