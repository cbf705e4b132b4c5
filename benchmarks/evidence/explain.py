"""What may explain the differences of docs/evidence.md, from the last checkpoints of runs that claimed:

    python benchmarks/evidence/explain.py SETTING OUT [--arms ARM,…] [--seeds 0,1,2]

OUT is that of run.py; arms are by default all that claimed there. A line of JSON an arm and seed goes into
explained.jsonl beside this file, unless it stands there. Networks are in evaluation mode, with the averaged weights
that were judged:

- loss: of the view `test`, on the run's own training images and on test images, cross-entropy with the label;
- two drawn views: the baseline's views `a` and `b` of every test image, the same pixels for all arms: top-1 of the
  first alone and of both views' averaged probabilities, which is two passes an image, the share of images given the
  same class in both, and the mean of both Kullback-Leibler divergences;
- gradient noise: of the plain cross-entropy of view `a` of IMAGES training images in DRAWS draws,
  in float32, see `noise`.

Then:  python benchmarks/evidence/tables.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from arms import ARMS, BASELINES, SETTINGS
from tables import read_explained
from torch import Tensor

from manyview.data import Images
from manyview.evaluate.model import StepModel
from manyview.judge.subject import Subject, open_subject
from manyview.step import Step

HERE = Path(__file__).parent
FOUND = HERE / "explained.jsonl"
IMAGES, DRAWS, ROWS = 200, 4, 250
EPOCH = 1000  # of the draws: one that no run came to


def noise(gradients: Iterable[Tensor]) -> dict[str, float]:
    """How much gradients differ within and between images, and the squared norm of their mean, all over P weights.

    gradients: of each of N images its D draws', [D, P]. Within: the variance over an image's draws, its mean over
    images. Between: the variance over images of the mean over draws, less what draws leave in it (a D-th of the first).
    Norm: less what images and draws leave in it (an N-th of the variance over images), so that all three are unbiased;
    of a small gradient it may come out below 0.
    """
    within, means, draws = [], [], 0
    for each in gradients:
        draws = len(each)
        within.append(float(each.double().var(dim=0).sum()))
        means.append(each.double().mean(dim=0))
    of_images, drawn = torch.stack(means), float(np.mean(within))
    spread = float(of_images.var(dim=0).sum())
    norm = float(of_images.mean(dim=0).square().sum()) - spread / len(of_images)
    return {"gradient_within": drawn, "gradient_between": spread - drawn / draws, "gradient_norm2": norm}


def gradients_of(
    scores: Callable[[Tensor], Tensor], weights: Sequence[Tensor], views: Sequence[Tensor], labels: Tensor
) -> Iterator[Tensor]:
    """Of each image the gradients of its draws' cross-entropies, [D, P].

    scores: pixels [1, …] -> logits [1, C]. views: a draw of all images each, [N, …].
    """
    for at in range(len(labels)):
        draws = []
        for view in views:
            loss = F.cross_entropy(scores(view[at : at + 1]), labels[at : at + 1])
            found = torch.autograd.grad(loss, weights, materialize_grads=True)
            draws.append(torch.cat([each.flatten() for each in found]))
        yield torch.stack(draws)


def divergence(first: Tensor, second: Tensor) -> float:
    """The mean over rows of (KL(p, q) + KL(q, p)) / 2 of two logits [N, C]."""
    p, q = first.double().log_softmax(dim=1), second.double().log_softmax(dim=1)
    return float(((p.exp() - q.exp()) * (p - q)).sum(dim=1).mean() / 2)


class Seen:
    """The images of a split, in memory, and the views of them that all arms are shown."""

    def __init__(self, images: Images) -> None:
        self.pixels = torch.stack([images.read(at) for at in range(len(images))])
        self.labels = torch.from_numpy(images.labels)
        self.index = images.index.tolist()

    def drawn(self, step: Step, epoch: int, name: str = "a") -> Tensor:
        """View `name` of a recipe, as drawn in that epoch, [N, 3, h, w]."""
        spans = [slice(at, at + ROWS) for at in range(0, len(self.labels), ROWS)]
        views = [step.views(self.pixels[at], self.labels[at], self.index[at], epoch, only=[name]) for at in spans]
        return torch.cat([view[name].pixels for view in views])


def scores_of(subject: Subject, pixels: Tensor) -> Tensor:
    """Logits [N, C] of what a network looks at."""
    with torch.no_grad():
        return torch.cat([subject.model.read(part)["logits"] for part in pixels.split(ROWS)])


def look_into(subject: Subject, drawing: Step, train: Seen, test: Seen) -> dict[str, float | None]:
    """All measures of a run. drawing: the baseline's step, which draws the views."""
    assert isinstance(subject.model, StepModel)
    assert subject.run is not None
    found: dict[str, float | None] = {}
    for name, seen in {"train_loss": train, "test_loss": test}.items():
        plain = torch.cat([subject.model.prepare(part) for part in seen.pixels.split(ROWS)])
        found[name] = float(F.cross_entropy(scores_of(subject, plain), seen.labels))
    first, second = (scores_of(subject, test.drawn(drawing, EPOCH, name)) for name in "ab")
    found["one_view_top1"] = 100 * float((first.argmax(1) == test.labels).double().mean())
    both = first.softmax(dim=1) + second.softmax(dim=1)
    found["averaged_top1"] = 100 * float((both.argmax(1) == test.labels).double().mean())
    found["same_class"] = 100 * float((first.argmax(1) == second.argmax(1)).double().mean())
    found["symmetric_kl"] = divergence(first, second)
    found["ece15"] = (subject.run.finished() or {"eval": {}})["eval"].get("calibration_ece15")
    step = subject.model.step
    weights = [weight.requires_grad_() for weight in step.evaluated.parameters()]
    views = [train.drawn(drawing, EPOCH + draw)[:IMAGES] for draw in range(DRAWS)]
    read = gradients_of(lambda pixels: step.read(pixels)["logits"], weights, views, train.labels[:IMAGES])
    return {**found, **noise(read)}


def run_of(setting: str, out: Path, arm: str, seed: int) -> Subject:
    """A run that claimed. Raises SystemExit where it is not there."""
    for phase in ("claim", "claim_close"):
        if (folder := out / f"{setting}-{phase}" / "runs" / arm / f"seed-{seed}").is_dir():
            return open_subject(folder)
    raise SystemExit(f"{out}: no run of {arm}, seed {seed}, claimed in {setting}")


def claimed(setting: str, out: Path) -> list[str]:
    """All recipes of which there are runs."""
    return sorted({each.name for each in out.glob(f"{setting}-claim*/runs/*")}, key=[*ARMS].index)


def main() -> None:
    """Looks into all runs that are asked for and not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=[name for name, each in SETTINGS.items() if each.arms is ARMS])
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--found", type=Path, default=FOUND)
    args = parser.parse_args()
    known = {(line["setting"], line["arm"], line["seed"]) for line in read_explained(args.found)}
    for seed in args.seeds:
        arms = [arm for arm in args.arms or claimed(args.setting, args.out) if (args.setting, arm, seed) not in known]
        if not arms:
            continue
        baseline = run_of(args.setting, args.out, BASELINES[0], seed)
        assert isinstance(baseline.model, StepModel)
        splits = baseline.splits
        assert splits.test is not None
        train, test = Seen(splits.train), Seen(splits.test)
        for arm in arms:
            subject = run_of(args.setting, args.out, arm, seed)
            if subject.splits.train.index.tolist() != train.index:
                raise SystemExit(f"{arm}, seed {seed}: it was trained on other images than {BASELINES[0]}")
            line = {"setting": args.setting, "arm": arm, "seed": seed}
            line |= look_into(subject, baseline.model.step, train, test)
            with args.found.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line)


if __name__ == "__main__":
    main()
