"""Overhead: Tied-Augment by a recipe and by hand, the same network, views rendered before, turns of some updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.bench import CLASSES, Bench, Row
from manyview.step import Step
from step import Peer, summary

SETTINGS = ((128, "bf16"), (512, "bf16"), (128, "fp32"))


class TiedPeer(Peer):
    """Tied-Augment as one writes it: a forward pass for each view, cross-entropy of both, features alike."""

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        h_a, h_b = self.backbone(self.pixels(a)), self.backbone(self.pixels(b))
        logits = self.heads["logits"](torch.cat([h_a, h_b])).float()
        return F.cross_entropy(logits, torch.cat([labels, labels])) + 20 * F.mse_loss(h_a.float(), h_b.float())


def by_hand(bench: Bench) -> Iterator[Row]:
    """A row a setting: both sides' milliseconds, the median of their ratios and its interval."""
    for batch, precision in SETTINGS:
        if bench.left <= 0:
            return
        size = 8 if bench.tiny else batch
        torch.manual_seed(0)
        step = Step(bench.recipe("tied_cifar10", "relations.similarity.weight=20"), CLASSES, total_steps=1000).train()
        labels = torch.from_numpy(bench.images.labels[:size]).to(bench.device)
        views = step.views(bench.images.pixels[:size], index=range(size), epoch=0, only=step.rendered_views)
        there = {name: view.moved(lambda tensor: tensor.to(bench.device)) for name, view in views.items()}
        peer = TiedPeer(step.to(bench.device)).train()
        pixels = [there[name].images for name in ("a", "b")]
        sides = {
            "ours": update(bench, step, lambda: step(there, labels)["loss"], precision),  # noqa: B023
            "peer": update(bench, peer, lambda: peer(*pixels, labels), precision),  # noqa: B023
        }
        losses = [side() for side in sides.values()]
        same = torch.allclose(*losses, rtol=1e-2 if precision == "bf16" else 1e-3)
        spent: dict[str, list[float]] = {name: [] for name in sides}
        turns, rounds = (1, 2) if bench.tiny else (8, 12)
        for number in range(rounds + 1):
            for name, side in [*sides.items()][:: 1 if number % 2 else -1]:
                began = bench.now()
                for _ in range(turns):
                    side()
                spent[name].append((bench.now() - began) / turns)
        found = summary(spent["ours"][1:], spent["peer"][1:])
        low, high = found["interval"]
        yield {
            "what": f"tied_cifar10, batch {size}, {precision}",
            "ours_ms": 1000 * found["ours"],
            "by_hand_ms": 1000 * found["peer"],
            "ratio": found["ratio"],
            "ratio_low": low,
            "ratio_high": high,
            "right": same,
        }


def update(
    bench: Bench, module: torch.nn.Module, loss_of: Callable[[], Tensor], precision: str
) -> Callable[[], Tensor]:
    """A call that makes an update and gives the loss before it."""
    optimizer = torch.optim.SGD([each for each in module.parameters() if each.requires_grad], lr=0.01, momentum=0.9)
    if isinstance(module, Step):
        module.attach(optimizer)

    def once() -> Tensor:
        with bench.autocast(precision):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return once
