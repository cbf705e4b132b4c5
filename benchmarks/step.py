"""A training step of manyview against the same step written by hand: what recipes, views and relations cost.

    python benchmarks/step.py [--cases simsiam,tied,agmax] [--backbone CALL]… [--batch N] [--rounds N] [--out FILE]

Both sides begin with the same weights and see the same views, rendered before, as they come from the loader (uint8).
Ours is what a loop does with a batch: `step(views, labels)`, backward, the optimiser's update, `step.after_step()`.
The peer is a loop as one writes it for one method: the same network, normalised pixels, the loss in a few lines of
torch, backward, the same optimiser, and the EMA or queue where the method has one.

    simsiam                     SimSiam by hand                                            at most 1.02 is wanted
    tied, agmax                 plain cross-entropy on the same 2B images, joint           at most 1.02 is wanted
    dino, lejepa                the same method by hand, two views, joint                  at most 1.02 is wanted
    sam                         SAM by hand, cross-entropy of both views                   at most 1.02 is wanted
    fixmatch                    FixMatch by hand, three unlabelled images a labelled one   at most 1.02 is wanted
    byol, moco, simclr          the same method by hand                                    for information
    augself                     SimSiam by hand, without AugSelf: what AugSelf adds        for information

Before the clock starts, both sides' first loss must be the same to 1e-5, and after one and two updates to 1e-3, since
rounding grows (for tied, agmax and augself, whose own terms the peer lacks: the first of the shared term). Then they
take turns in one process, a step each, the order reversed every round. A ratio compares the two steps of one round, in
processor time on one thread, so that what other programs take does not count; the table has the median of the ratios,
its 95 % interval from their ranks, and their quartiles. `extra` is the median difference, which depends on the
network's size little.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manyview
from manyview.branches.branch import Branch
from manyview.data.batch import Batch
from manyview.optimize.sam import Sam
from manyview.relations.lejepa import directions_at
from manyview.step import Step
from manyview.views.streams import IMAGE
from views import machine

CLASSES = 10
SIZE = 32
BATCHES = 4  # rendered before, and used in turn
TOLERANCES = (1e-5, 1e-3, 1e-3)  # of the loss before, after one and after two updates
TARGET = 1.02
TEMPERATURE = 0.2
QUEUE = 4096
RATIO = 3  # unlabelled images a labelled one
THRESHOLD = 0.26  # so low that a network that begins is confident of some rows, and not of others
BACKBONES = ("cresnet20", "resnet18(small=True, layers=(1, 1, 1, 1), channels=(8, 16, 32, 64))")
SELF_SUPERVISED = "crop(32, scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2)"
SUPERVISED = "pad_crop(32, padding=4) | flip(0.5)"
STRONG = f"{SUPERVISED} | randaugment(2, 10) | cutout(16)"


@dataclass(frozen=True)
class Rendered:
    """A batch for both sides: what our step takes, each view's images [B, 3, H, W] in the recipe's order, labels."""

    given: Batch
    images: Sequence[Tensor]
    labels: Tensor


# --- the peers --------------------------------------------------------------------------------------------------------


class Pixels(nn.Module):
    """From uint8 to what the network reads."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.mean, self.std = branch.mean.clone(), branch.std.clone()

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


class Peer(nn.Module):
    """What every peer has: the trained network with its heads, taken from ours so that the weights are the same."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.pixels = Pixels(step.main)
        self.backbone = copy.deepcopy(step.main.backbone)
        self.heads = copy.deepcopy(step.main.heads)

    def after_step(self) -> None:
        """Nothing, for most."""


class PlainPeer(Peer):
    """Cross-entropy of both views in one batch."""

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        logits = self.heads["logits"](self.backbone(self.pixels(torch.cat([a, b]))))
        return F.cross_entropy(logits, torch.cat([labels, labels]))


class FixMatchPeer(Peer):
    """FixMatch: cross-entropy of the labelled view, and of the strong one with what is said of the weak one."""

    def forward(self, x: Tensor, weak: Tensor, strong: Tensor, labels: Tensor) -> Tensor:
        logits = self.heads["logits"](self.backbone(self.pixels(torch.cat([x, weak, strong]))))
        of_x, of_weak, of_strong = logits.split([len(x), len(weak), len(strong)])
        confidence, said = of_weak.detach().softmax(dim=1).max(dim=1)
        each = F.cross_entropy(of_strong, said, reduction="none")
        return F.cross_entropy(of_x, labels) + (each * (confidence >= THRESHOLD)).mean()


class SimSiamPeer(Peer):
    """SimSiam."""

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        z_a, z_b = (self.heads["z"](self.backbone(self.pixels(images))) for images in (a, b))
        p_a, p_b = self.heads["p"](z_a), self.heads["p"](z_b)
        there = F.cosine_similarity(p_a, z_b.detach(), dim=1).mean()
        back = F.cosine_similarity(p_b, z_a.detach(), dim=1).mean()
        return -(there + back) / 2


class EmaPeer(Peer):
    """What BYOL and MoCo share: a projector, and a copy of network and projector that follows."""

    momentum = 0.99

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.online = nn.Sequential(self.backbone, self.heads["z"])
        self.teacher = copy.deepcopy(self.online).requires_grad_(False)

    @torch.no_grad()
    def after_step(self) -> None:
        for theirs, ours in zip(self.teacher.parameters(), self.online.parameters(), strict=True):
            theirs.lerp_(ours, 1 - self.momentum)


class ByolPeer(EmaPeer):
    """BYOL, without the constant of its squared distances."""

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        a, b = self.pixels(a), self.pixels(b)
        p_a, p_b = self.heads["p"](self.online(a)), self.heads["p"](self.online(b))
        with torch.no_grad():
            t_a, t_b = self.teacher(a), self.teacher(b)
        return -2 * (F.cosine_similarity(p_a, t_b, dim=1).mean() + F.cosine_similarity(p_b, t_a, dim=1).mean())


class MocoPeer(EmaPeer):
    """MoCo v2 on one device: queries of one view, keys of the other."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.queue = step.get_buffer("relations.info_nce.queue").clone()
        self.oldest = 0

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        q = F.normalize(self.online(self.pixels(a)), dim=1)
        with torch.no_grad():
            self.keys = F.normalize(self.teacher(self.pixels(b)), dim=1)
        logits = torch.cat([(q * self.keys).sum(dim=1, keepdim=True), q @ self.queue.T], dim=1) / TEMPERATURE
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))

    def after_step(self) -> None:
        super().after_step()
        self.queue[self.oldest : self.oldest + len(self.keys)] = self.keys  # the batch divides the queue
        self.oldest = (self.oldest + len(self.keys)) % QUEUE


class SimClrPeer(Peer):
    """SimCLR: cross-entropy of each row's partner among all other rows."""

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        z = F.normalize(self.heads["z"](self.backbone(self.pixels(torch.cat([a, b])))), dim=1)
        logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        rows = len(a)
        return F.cross_entropy(logits, torch.arange(2 * rows).roll(rows))


class DinoPeer(EmaPeer):
    """DINO of two global views."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.centre = step.get_buffer("relations.dino.centre").clone()

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        images = self.pixels(torch.cat([a, b]))
        s_a, s_b = (self.online(images) / 0.1).log_softmax(dim=1).chunk(2)
        with torch.no_grad():
            self.scores = self.teacher(images)
            t_a, t_b = ((self.scores - self.centre) / 0.04).softmax(dim=1).chunk(2)
        return -((t_a * s_b).sum(dim=1).mean() + (t_b * s_a).sum(dim=1).mean()) / 2

    def after_step(self) -> None:
        super().after_step()
        self.centre = 0.9 * self.centre + 0.1 * self.scores.mean(dim=0)


class LeJepaPeer(Peer):
    """LeJEPA of two views, with our directions, so that the loss is the same."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.seed = step.get_buffer("relations.lejepa.seed").clone()
        self.update = torch.tensor(0)
        self.t = torch.linspace(0, 3, 17)
        self.weights = torch.full((17,), 3 / 8) * (-self.t.square() / 2).exp()
        self.weights[[0, -1]] /= 2

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        z_a, z_b = self.heads["z"](self.backbone(self.pixels(torch.cat([a, b])))).chunk(2)
        directions = directions_at(self.seed, self.update, z_a.shape[1], 256)
        sketch = sum(self.sketch(z @ directions) for z in (z_a, z_b)) / 2
        return 0.95 * (z_a - z_b).square().mean() / 4 + 0.05 * sketch

    def sketch(self, rows: Tensor) -> Tensor:
        angles = rows[..., None] * self.t
        apart = (angles.cos().mean(0) - (-self.t.square() / 2).exp()).square() + angles.sin().mean(0).square()
        return len(rows) * (apart @ self.weights).mean()

    def after_step(self) -> None:
        self.update += 1


# --- cases ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A recipe's parts and its peer. shared: the one term that the peer has too; None: the whole loss."""

    views: Mapping[str, Any]
    branches: Mapping[str, Any]
    relations: Sequence[str]
    peer: type[Peer]
    against: str
    shared: str | None = None
    target: float | None = None
    rho: float = 0.0  # of SAM around the optimiser


def pair(make: str) -> dict[str, Any]:
    """Two views of an image by the same ops."""
    return {"a": {"from": IMAGE, "make": make}, "b": {"like": "a"}}


SIMSIAM = {"z": "projector(h, {width})", "p": "predictor(z, {quarter})", "forward": "separate"}
COSINE = "cosine(p(a), toward=stop(z(b)), weight=0.5, swapped=True)"
CE = "cross_entropy(logits(a), logits(b))"
PLAIN = "cross-entropy, 2B images"
CASES = {
    "simsiam": Case(pair(SELF_SUPERVISED), {"net": SIMSIAM}, (COSINE,), SimSiamPeer, "by hand", target=TARGET),
    "tied": Case(
        pair(SUPERVISED),
        {"net": {}},
        (CE, "similarity(h(a), h(b), weight=20)"),
        PlainPeer,
        PLAIN,
        "cross_entropy",
        TARGET,
    ),
    "agmax": Case(
        pair(SUPERVISED),
        {"net": {}},
        (CE, "agmax(logits(a), logits(b))"),
        PlainPeer,
        PLAIN,
        "cross_entropy",
        TARGET,
    ),
    "dino": Case(
        pair(SELF_SUPERVISED),
        {"net": {"z": "dino_head(h, 1024, {width})"}, "teacher": "ema(net, momentum=0.99)"},
        ("dino(z(a), z(b), toward=teacher)",),
        DinoPeer,
        "by hand",
        target=TARGET,
    ),
    "lejepa": Case(
        pair(SELF_SUPERVISED),
        {"net": {"z": "projector(h, 64, {width}, layers=3, norm_last=False)"}},
        ("lejepa(z(a), z(b))",),
        LeJepaPeer,
        "by hand",
        target=TARGET,
    ),
    "byol": Case(
        pair(SELF_SUPERVISED),
        {
            "net": {
                "z": "projector(h, 256, {width}, norm_last=False)",
                "p": "predictor(z, {width})",
                "forward": "separate",
            },
            "teacher": "ema(net, momentum=0.99)",
        },
        ("cosine(p(a), toward=teacher.z(b), weight=2, swapped=True)",),
        ByolPeer,
        "by hand",
    ),
    "moco": Case(
        pair(SELF_SUPERVISED),
        {
            "net": {"z": "projector(h, 128, {width}, norm_last=False)", "forward": "separate"},
            "teacher": "ema(net, momentum=0.99)",
        },
        (f"info_nce(z(a), toward=teacher.z(b), queue={QUEUE}, temperature={TEMPERATURE})",),
        MocoPeer,
        "by hand",
    ),
    "simclr": Case(
        pair(SELF_SUPERVISED),
        {"net": {"z": "projector(h, 128, {width}, norm_last=False)"}},
        (f"nt_xent(z(a), z(b), temperature={TEMPERATURE})",),
        SimClrPeer,
        "by hand",
    ),
    "augself": Case(
        pair(SELF_SUPERVISED),
        {"net": SIMSIAM},
        (COSINE, "augself(h(a), h(b), crop=1.0, color=1.0)"),
        SimSiamPeer,
        "SimSiam by hand, without AugSelf",
        "cosine",
    ),
    "sam": Case(pair(SUPERVISED), {"net": {}}, (CE,), PlainPeer, "SAM by hand", target=TARGET, rho=0.05),
    "fixmatch": Case(
        {
            "x": {"from": IMAGE, "make": SUPERVISED},
            "weak": {"from": "unlabeled", "make": SUPERVISED},
            "strong": {"from": "unlabeled", "make": STRONG},
        },
        {"net": {}},
        (
            "cross_entropy(logits(x))",
            f"pseudo_label(logits(strong), toward=stop(logits(weak)), threshold={THRESHOLD})",
        ),
        FixMatchPeer,
        "by hand",
        target=TARGET,
    ),
}


def has_unlabeled(case: Case) -> bool:
    """Whether some view is of images without labels."""
    return any(view.get("from") == "unlabeled" for view in case.views.values())


def recipe_of(case: Case, backbone: str, width: int) -> manyview.Recipe:
    """The recipe of a case. width: of the heads, where 2048 is SimSiam's."""
    branches: dict[str, Any] = {}
    for name, spec in case.branches.items():
        heads = spec if isinstance(spec, str) else {"backbone": backbone, "normalize": "cifar10", **spec}
        branches[name] = heads
    text = json.dumps(
        {
            "data": {"source": "cifar10"} | ({"unlabeled": "all"} if has_unlabeled(case) else {}),
            "views": case.views,
            "branches": branches,
            "relations": list(case.relations),
            "train": {"steps": 1000},
        }
    )
    return manyview.parse_recipe(text.replace("{width}", str(width)).replace("{quarter}", str(width // 4)))


def batches_of(step: Step, case: Case, batch: int) -> list[Rendered]:
    """Rendered views of random images, and labels. batch: images, of both streams together."""
    draw = torch.Generator().manual_seed(0)
    labelled = batch // (1 + RATIO) if has_unlabeled(case) else batch
    made = []
    for number in range(BATCHES):
        coarse = torch.rand(batch, 3, 8, 8, generator=draw) * 255
        images = F.interpolate(coarse, SIZE, mode="bilinear").to(torch.uint8)
        labels = torch.randint(CLASSES, (batch,), generator=draw)[:labelled]
        index = {IMAGE: range(labelled), "unlabeled": range(batch - labelled)}
        views = step.views(images[:labelled], labels, index=index[IMAGE], epoch=number)
        streams, both = {}, dict(views)
        if has_unlabeled(case):
            others = step.views(images[labelled:], index=index["unlabeled"], epoch=number, stream="unlabeled")
            streams, both = {"unlabeled": Batch(others, None, index["unlabeled"], number)}, views | others
        given = Batch(views, labels, index[IMAGE], number, streams=streams)
        made.append(Rendered(given, [both[name].images for name in case.views], labels))
    return made


# --- two sides --------------------------------------------------------------------------------------------------------


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of both sides."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=5e-4)


class SamByHand:
    """SAM as it is usually written: the weights go up and come back, and BatchNorm does not move in between."""

    def __init__(self, module: nn.Module, rho: float) -> None:
        self.inner, self.rho = sgd(module), rho
        self.norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        with torch.enable_grad():
            loss = closure()
        weights = [each for each in self.inner.param_groups[0]["params"] if each.grad is not None]
        norm = torch.stack([each.grad.norm() for each in weights]).norm()
        before = [each.clone() for each in weights]
        for each in weights:
            each.add_(self.rho / norm * each.grad)
        for each in self.norms:
            each.momentum = 0.0
        with torch.enable_grad():
            closure()
        for each in self.norms:
            each.momentum = 0.1
        for each, old in zip(weights, before, strict=True):
            each.copy_(old)
        self.inner.step()
        return loss

    def zero_grad(self) -> None:
        self.inner.zero_grad()


class Ours:
    """One call is one update on a batch; gives the loss, or the term that the peer has too."""

    def __init__(self, step: Step, case: Case) -> None:
        self.step, self.shared = step, case.shared
        self.optimizer = Sam(sgd(step), step, case.rho) if case.rho else sgd(step)

    def __call__(self, batch: Rendered) -> Tensor:
        def look() -> Tensor:
            self.optimizer.zero_grad()
            out = self.step(batch.given)
            out["loss"].backward()
            return (out["loss"] if self.shared is None else out["terms"][self.shared]).detach()

        loss: Tensor = self.optimizer.step(look)
        self.step.after_step()
        return loss


class Theirs:
    """The same of the peer."""

    def __init__(self, peer: Peer, case: Case) -> None:
        self.peer = peer
        self.optimizer = SamByHand(peer, case.rho) if case.rho else sgd(peer)

    def __call__(self, batch: Rendered) -> Tensor:
        def look() -> Tensor:
            self.optimizer.zero_grad()
            loss: Tensor = self.peer(*batch.images, batch.labels)
            loss.backward()
            return loss.detach()

        loss: Tensor = self.optimizer.step(look)
        self.peer.after_step()
        return loss


def check(ours: Ours, theirs: Theirs, batches: Sequence[Rendered]) -> None:
    """Three updates of both; raises SystemExit unless they do the same work."""
    for number, (batch, tolerance) in enumerate(zip(batches, TOLERANCES, strict=False)):
        mine, peers = ours(batch).item(), theirs(batch).item()
        if (ours.shared is None or number == 0) and not math.isclose(mine, peers, rel_tol=0, abs_tol=tolerance):
            raise SystemExit(f"after {number} updates our loss is {mine:.7f}, the peer's {peers:.7f}")


def seconds(side: Ours | Theirs, batch: Rendered, clock: Callable[[], float]) -> float:
    """Of one update."""
    start = clock()
    side(batch)
    return clock() - start


def measure(
    case: Case, backbone: str, batch: int, width: int, rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Both sides' seconds a step, round by round."""
    step = Step(recipe_of(case, backbone, width), CLASSES).train()
    batches = batches_of(step, case, batch)
    ours, theirs = Ours(step, case), Theirs(case.peer(step).train(), case)
    check(ours, theirs, batches)
    spent: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(rounds):
        sides: list[tuple[str, Ours | Theirs]] = [("ours", ours), ("peer", theirs)]
        for name, side in sides[:: 1 if number % 2 else -1]:
            spent[name].append(seconds(side, batches[number % BATCHES], clock))
    return {"seconds": spent, **summary(spent["ours"], spent["peer"])}


def summary(ours: Sequence[float], peer: Sequence[float]) -> dict[str, Any]:
    """Medians, quartiles of the paired ratios, and the 95 % interval of their median from ranks."""
    ratios = sorted(mine / its for mine, its in zip(ours, peer, strict=True))
    count = len(ratios)
    reach = 0.98 * math.sqrt(count)  # 1.96 standard deviations of how many of `count` lie below the median
    low, high = max(0, math.floor(count / 2 - reach)), min(count - 1, math.ceil(count / 2 + reach) - 1)
    first, _, third = statistics.quantiles(ratios, n=4)
    return {
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
        "extra": statistics.median(mine - its for mine, its in zip(ours, peer, strict=True)),
        "ratio": statistics.median(ratios),
        "interval": (ratios[low], ratios[high]),
        "quartiles": (first, third),
    }


# --- output -----------------------------------------------------------------------------------------------------------


HEADER = """\
| case | peer | ours, ms | peer, ms | extra, ms | ratio | 95 % | quartiles | wanted |
| --- | --- | --: | --: | --: | --: | --: | --: | --: |"""


def shown(name: str, row: Mapping[str, Any]) -> str:
    """A case as a row of the table."""
    case = CASES[name]
    times = " | ".join(f"{1000 * row[key]:.1f}" for key in ("ours", "peer", "extra"))
    spans = " | ".join(f"{low:.3f} to {high:.3f}" for low, high in (row["interval"], row["quartiles"]))
    wanted = "" if case.target is None else f"{case.target:.2f}"
    return f"| {name} | {case.against} | {times} | {row['ratio']:.3f} | {spans} | {wanted} |"


def main() -> None:
    """Reads the command line, checks, times, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    parser.add_argument("--backbone", action="append", help=f"as in a recipe; may be repeated. Default: {BACKBONES}")
    parser.add_argument("--batch", type=int, default=32, help="images, so twice as many views; divides moco's queue")
    parser.add_argument("--width", type=int, default=2048, help="of projectors; SimSiam's predictor has a quarter")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    names = args.cases.split(",")
    if missing := [name for name in names if name not in CASES]:
        parser.error(f"no case {', '.join(missing)}; cases: {', '.join(CASES)}")
    if QUEUE % args.batch:
        parser.error(f"--batch {args.batch} does not divide moco's queue of {QUEUE}")

    torch.set_num_threads(args.threads)
    clock = time.process_time if args.clock == "processor" else time.perf_counter
    report: dict[str, Any] = {**machine(), "settings": vars(args) | {"out": None}, "backbones": {}}
    for backbone in args.backbone or BACKBONES:
        print(f"{backbone}, batch {args.batch}, width {args.width}, {args.rounds} rounds, {args.clock} time, ", end="")
        print(f"{args.threads} thread(s), torch {torch.__version__}, {report['cpu']}\n\n{HEADER}", flush=True)
        results = report["backbones"][backbone] = {}
        for name in names:
            torch.manual_seed(0)
            results[name] = measure(CASES[name], backbone, args.batch, args.width, args.rounds, clock)
            print(shown(name, results[name]), flush=True)
        print()
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
