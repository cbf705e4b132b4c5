"""Training on a GPU: updates a second, where views are made, what a recipe costs over a loop by hand, and memory.

    python benchmarks/gpu.py [--data DIR] [--seconds N] [--out FILE]          # DIR holds CIFAR-10, see `data.root`
    python benchmarks/gpu.py --device cpu --tiny                              # whether it runs, without a GPU

One process, four parts, in this order; what the time does not suffice for is left out, and said:

    overhead   Tied-Augment by a recipe and by hand: the same network, views rendered before, turns of ten updates
    render     two views of a batch: by our ops on the device, by our CPU programs, and by torchvision v2 on the device,
               with one draw a batch (as it is meant) and with one an image (as training needs)
    train      whole updates: `waits` is the part of the time that the loop waits for images or views
    compile    the same with compiled backbones

Times are wall times that end when the device has done its work, after some that do not count; each row's peak is
`torch.cuda.max_memory_allocated`, parameters and images included.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

import manyview
from manyview.data import open_splits, preload
from manyview.data.images import ArrayImages
from manyview.data.loader import Batches, stream
from manyview.optimize.optimize import make_optimizer
from manyview.recipe.recipe import Recipe
from manyview.step import Step
from manyview.views.engine.render import sizes_of
from manyview.views.view import View, draw_views, sample_views
from step import Peer, summary
from views import machine

CLASSES = 10
TIED = ("tied_cifar10",)
NETS = {
    "tied, wrn28_2": TIED,
    "tied, resnet18": (*TIED, "branches.net.backbone=resnet18(small=True)"),
    "simsiam+augself, resnet18": ("simsiam_augself_cifar10",),
}
SMALL = "branches.{}.backbone=resnet10t(channels=(4, 8, 8, 8))"
PLACES = ("memory", "device", "workers")
V2 = {
    "simclr": "crop(32, scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2)",
    "randaugment": "pad_crop(32, padding=4) | flip(0.5) | randaugment(2, 14)",
}


@dataclass
class Bench:
    """What all parts share. until: when, on `time.perf_counter`, no new row is begun."""

    device: torch.device
    images: ArrayImages
    tiny: bool
    until: float
    workers: int
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.until - time.perf_counter()

    def now(self) -> float:
        """Seconds, once the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, work: Callable[[], object], about: float = 0.5) -> float:
        """Of one call: the median of five rounds, each of as many calls as take a fifth of `about` seconds."""
        work()
        began = self.now()
        work()
        each = max(1e-6, self.now() - began)
        count = 1 if self.tiny else max(1, round(about / 5 / each))
        rounds = []
        for _ in range(2 if self.tiny else 5):
            began = self.now()
            for _ in range(count):
                work()
            rounds.append((self.now() - began) / count)
        return statistics.median(rounds)

    def autocast(self, precision: str) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def peak(self) -> float:
        """GiB since the last call."""
        if self.device.type != "cuda":
            return 0.0
        most = torch.cuda.max_memory_allocated(self.device) / 2**30
        gc.collect()
        torch.cuda.reset_peak_memory_stats(self.device)
        return most


def recipe_of(bench: Bench, name: str, *overrides: str) -> Recipe:
    """A packaged recipe, on a tiny network where that is asked for."""
    if bench.tiny:
        recipe = manyview.load_recipe(name)
        overrides += tuple(SMALL.format(b) for b, spec in recipe.branch_plan.items() if spec.ema is None)
    return manyview.load_recipe(name, *overrides)


def synthetic(count: int) -> ArrayImages:
    """Smooth images with labels, where no data are given."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=draw) * 255
    pixels = F.interpolate(coarse, 32, mode="bilinear").to(torch.uint8)
    labels = torch.randint(CLASSES, (count,), generator=draw).numpy()
    return ArrayImages(pixels, labels, np.arange(count), split="train")


# --- overhead ---------------------------------------------------------------------------------------------------------


class TiedPeer(Peer):
    """Tied-Augment as one writes it: a forward pass for each view, cross-entropy of both, features alike."""

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        h_a, h_b = self.backbone(self.pixels(a)), self.backbone(self.pixels(b))
        logits = self.heads["logits"](torch.cat([h_a, h_b])).float()
        return F.cross_entropy(logits, torch.cat([labels, labels])) + 20 * F.mse_loss(h_a.float(), h_b.float())


def overhead(bench: Bench) -> Iterator[dict[str, Any]]:
    """Our step beside the same by hand, turn by turn."""
    for batch in (128, 512):
        for precision in ("fp32", "bf16"):
            size = 8 if bench.tiny else batch
            recipe = recipe_of(bench, *TIED, "relations.similarity.weight=20")
            step = Step(recipe, CLASSES, total_steps=1000).train()
            images = bench.images.read_many(np.arange(size))
            labels = torch.from_numpy(bench.images.labels[:size]).to(bench.device)
            views = step.views(images, index=range(size), epoch=0, only=step.rendered_views)
            there = {name: view.moved(lambda tensor: tensor.to(bench.device)) for name, view in views.items()}
            peer = TiedPeer(step.to(bench.device)).train()
            sides = {"ours": _ours(bench, step, there, labels, precision)}
            sides["by hand"] = _by_hand(bench, peer, there, labels, precision)
            losses = {name: side() for name, side in sides.items()}
            assert torch.allclose(*losses.values(), rtol=1e-2 if precision == "bf16" else 1e-3), losses
            spent: dict[str, list[float]] = {name: [] for name in sides}
            turns, rounds = (1, 4) if bench.tiny else (8, 12)
            for number in range(rounds + 1):
                for name, side in [*sides.items()][:: 1 if number % 2 else -1]:
                    began = bench.now()
                    for _ in range(turns):
                        side()
                    spent[name].append((bench.now() - began) / turns)
            found = summary(spent["ours"][1:], spent["by hand"][1:])
            yield {
                "what": f"tied, wrn28_2, batch {batch}, {precision}",
                "ours_ms": 1000 * found["ours"],
                "by_hand_ms": 1000 * found["peer"],
                "ratio": found["ratio"],
                "interval": found["interval"],
            }


def _sgd(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01, momentum=0.9)


def _ours(bench: Bench, step: Step, views: dict[str, View], labels: Tensor, precision: str) -> Callable[[], Tensor]:
    optimizer = _sgd(step)
    step.attach(optimizer)

    def update() -> Tensor:
        with bench.autocast(precision):
            loss = step(views, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return update


def _by_hand(bench: Bench, peer: Peer, views: dict[str, View], labels: Tensor, precision: str) -> Callable[[], Tensor]:
    optimizer = _sgd(peer)

    def update() -> Tensor:
        with bench.autocast(precision):
            loss: Tensor = peer(views["a"].images, views["b"].images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return update


# --- render -----------------------------------------------------------------------------------------------------------


def render(bench: Bench) -> Iterator[dict[str, Any]]:
    """Two views of a batch, from grey levels that lie where they are made."""
    batch = 16 if bench.tiny else 512
    images = bench.images.read_many(np.arange(batch))
    there = images.to(bench.device)
    for name, make in V2.items():
        plan = manyview.parse_recipe(
            json.dumps(
                {
                    "views": {"a": {"from": "image", "make": make}, "b": {"like": "a"}},
                    "branches": {"net": {"backbone": "cresnet20"}},
                    "relations": ["cross_entropy(logits(a), logits(b))"],
                    "train": {"epochs": 1},
                }
            )
        ).seen_views

        for what, work, count in ways(bench, plan, v2_of(name), images, there):
            with torch.no_grad():
                seconds = bench.seconds(work)
            yield {"what": f"{name}: {what}", "ms": 1000 * seconds, "images_per_second": count / seconds}


def ways(
    bench: Bench, plan: Any, v2: Callable[[Tensor], Tensor], images: Tensor, there: Tensor
) -> Iterator[tuple[str, Callable[[], object], int]]:
    """How two views may be made: (what, a call that does it, images of a call)."""
    count, few = len(images), there[: max(2, len(there) // 8)]
    rows = range(count)
    threads = torch.get_num_threads()
    yield "draws alone, on the CPU", lambda: sample_views(plan, sizes_of(images), rows, 0, 0), count
    yield f"ours, CPU programs, {threads} threads", lambda: draw_views(plan, images, None, rows, 0, 0), count
    yield f"ours, on {bench.device.type}", lambda: draw_views(plan, there, None, rows, 0, 0), count
    yield "torchvision v2, one draw a batch", lambda: (v2(there), v2(there)), count
    yield "torchvision v2, a draw an image", lambda: [(v2(image), v2(image)) for image in few], len(few)


def v2_of(name: str) -> Callable[[Tensor], Tensor]:
    """torchvision's pipeline for tensors on a device, without conversion to floats."""
    if name == "simclr":
        jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        return v2.Compose(
            [v2.RandomResizedCrop(32, scale=(0.2, 1)), v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2)]
        )
    return v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.RandAugment(2, 14)])


# --- train ------------------------------------------------------------------------------------------------------------


def settings() -> Iterator[tuple[str, int, str, str]]:
    """(net, batch, precision, place), what matters most first."""
    for net in NETS:
        for batch in (128, 512):
            yield net, batch, "bf16", "memory"
    for net in NETS:
        for place in PLACES[1:]:
            yield net, 512, "bf16", place
    for net in NETS:
        yield net, 512, "fp32", "memory"
    for place in PLACES[1:]:
        yield "tied, wrn28_2", 128, "bf16", place


def train(bench: Bench, compiled: bool = False) -> Iterator[dict[str, Any]]:
    """Whole updates as `manyview train` makes them, but for logs, evaluation and checkpoints."""
    chosen = [(net, 512, "bf16", "memory") for net in NETS] if compiled else settings()
    for net, batch, precision, place in chosen:
        yield update_row(bench, net, batch, precision, place, compiled)
    if not compiled:  # what it costs that a run can be repeated bit for bit
        yield update_row(bench, "tied, wrn28_2", 512, "bf16", "memory", repeatable=False)


def update_row(
    bench: Bench, net: str, batch: int, precision: str, place: str, compiled: bool = False, repeatable: bool = True
) -> dict[str, Any]:
    """Milliseconds of an update, images a second, the share of waiting, and the peak.

    repeatable: cuDNN as `manyview train` has it, deterministic; else the fastest that it finds.
    """
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = not repeatable, repeatable
    size = 8 if bench.tiny else batch
    recipe = recipe_of(bench, *NETS[net], f"train.batch_size={size}")
    bench.peak()
    step = Step(recipe, CLASSES, total_steps=100_000).train().to(bench.device)
    if compiled:
        step.compile_parts()
    optimizer = make_optimizer(recipe.train, step)
    step.attach(optimizer)
    epoch = len(bench.images) // size
    views = None if place == "device" else recipe.seen_views
    batches = Batches(bench.images, size, epoch, 0, views=views, classes=CLASSES)
    warm, wanted = (1, 2) if bench.tiny else (8, 1.5)
    began = waited = 0.0
    done = 0
    pin = bench.device.type == "cuda"
    with closing(stream(batches, 0, 10**6, place, bench.workers, pin=pin)) as parts:
        for number, part in enumerate(_timed(parts)):
            got, batch_there = part
            batch_there = batch_there.to(bench.device)
            with bench.autocast(precision):
                index = batch_there.index.tolist()
                out = step(batch_there.images, batch_there.targets, index=index, epoch=batch_there.epoch)
            out["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            if number == warm:
                began = bench.now()
            elif number > warm:
                waited += got
                done += 1
                # the loop runs ahead of the device: whether time is up is asked of it now and then alone
                if bench.tiny or (done % 10 == 0 and bench.now() - began > wanted):
                    break
        seconds = (bench.now() - began) / done
    how = f"{'compiled, ' if compiled else ''}{'' if repeatable else 'fastest cuDNN, '}views by {place}"
    return {
        "what": f"{net}, batch {batch}, {precision}, {how}",
        "ms": 1000 * seconds,
        "images_per_second": size / seconds,
        "waits": waited / done / seconds,
        "peak_gib": bench.peak(),
    }


def _timed(parts: Iterator[Any]) -> Iterator[tuple[float, Any]]:
    """Each part, and how long it was waited for."""
    while True:
        asked = time.perf_counter()
        try:
            part = next(parts)
        except StopIteration:
            return
        yield time.perf_counter() - asked, part


# --- output -----------------------------------------------------------------------------------------------------------


def shown(row: dict[str, Any]) -> str:
    """A row of any part in one line."""
    parts = [f"{row['what']:<68}"]
    if "ratio" in row:
        low, high = row["interval"]
        parts.append(f"ours {row['ours_ms']:.2f} ms, by hand {row['by_hand_ms']:.2f} ms, ")
        parts.append(f"ratio {row['ratio']:.3f} ({low:.3f} to {high:.3f})")
    else:
        parts.append(f"{row['ms']:9.2f} ms {row['images_per_second']:12,.0f} images/s")
    if "waits" in row:
        parts.append(f"  waits {row['waits']:4.0%}  peak {row['peak_gib']:.2f} GiB")
    return "".join(parts)


PARTS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "overhead": overhead,
    "render": render,
    "train": train,
    "compile": lambda bench: train(bench, compiled=True),
}


def main() -> None:
    """Reads the command line, times, prints each row as it is there, and writes after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10; without it images are synthetic")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--seconds", type=float, default=600, help="after which no new row is begun")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=8, help="processes, where the loader makes the views")
    parser.add_argument("--tiny", action="store_true", help="a few images and steps of a tiny network: does it run?")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    until = time.perf_counter() + args.seconds
    device = torch.device(args.device)
    if args.data is None:
        images: Any = synthetic(256 if args.tiny else 20_000)
    else:
        limit = "data.limit=256" if args.tiny else "data.limit=20000"
        recipe = manyview.load_recipe("tied_cifar10", f"data.root={args.data}", limit)
        images = preload(open_splits(recipe.data, 0).train)
    bench = Bench(device, images, args.tiny, until, 1 if args.tiny else args.workers)
    report: dict[str, Any] = {**machine(), "torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        report["gpu"] = torch.cuda.get_device_name(device)
    about = f"{report.get('gpu', 'no GPU')}; {report['cpu']}, {report['cores']} cores; torch {torch.__version__}"
    print(about, flush=True)
    for part in args.parts.split(","):
        rows = report[part] = []
        print(f"\n{part}", flush=True)
        torch.manual_seed(0)
        made = PARTS[part](bench)
        while bench.left > 0:
            try:
                row = next(made, None)
            except Exception as error:  # one row must not cost the others, on a machine that is lent for minutes
                print(f"  ended by {type(error).__name__}: {str(error)[:300]}", flush=True)
                break
            if row is None:
                break
            rows.append(row)
            print(f"  {shown(row)}", flush=True)
            if args.out:
                with contextlib.suppress(OSError):
                    args.out.write_text(json.dumps(report, indent=1) + "\n")
        else:
            print("  no time left for the rest", flush=True)


if __name__ == "__main__":
    main()
