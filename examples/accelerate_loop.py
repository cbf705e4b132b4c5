"""A recipe in a loop of one's own, with Hugging Face's accelerate: one process or many, parts of batches, bf16.

python examples/accelerate_loop.py [EPOCHS]
accelerate launch --num_processes 2 examples/accelerate_loop.py [EPOCHS]
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

import manyview
from manyview.data import collate, with_index


def run(epochs: int, batch_size: int = 64, accumulate: int = 2, images: int = 1024) -> list[float]:
    """Trains a small net on the digits; the mean loss of each epoch. batch_size: of an update, over all processes."""
    accelerator = Accelerator(gradient_accumulation_steps=accumulate)
    parts = accelerator.num_processes * accumulate
    digits = load_digits()
    pixels, labels = (digits.images[:images] * 255 / 16).round().astype(np.uint8), digits.target[:images]

    # any map-style data set: with_index adds each image's number, of which the draws of its views are a function
    dataset = with_index(list(zip(pixels, labels, strict=True)))
    loader = DataLoader(dataset, batch_size // parts, shuffle=True, drop_last=True, collate_fn=collate)
    updates = len(loader) // parts * epochs

    recipe = manyview.load_recipe("quickstart", "train.ema=0.99")
    step = manyview.Step(recipe, num_classes=10, total_steps=updates)
    optimizer = torch.optim.SGD(step.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    wrapped, optimizer, loader = accelerator.prepare(step, optimizer, loader)
    step.attach(optimizer)  # accelerate's wrapper may be given: what follows an update comes with the last part alone

    losses = []
    for epoch in range(epochs):
        wrapped.train()
        total = torch.zeros((), device=accelerator.device)
        for batch, targets, index in loader:
            with accelerator.accumulate(wrapped), accelerator.autocast():
                loss = wrapped(batch, targets, index=index, epoch=epoch)["loss"]
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            total += loss.detach()
        losses.append(float(accelerator.reduce(total / len(loader), "mean")))
        accelerator.print(f"epoch {epoch}: loss {losses[-1]:.4f}, {step.updates} updates")
    return losses


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(__doc__)
    else:
        run(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
