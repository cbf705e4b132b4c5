"""Tied-Augment in timm's own parts: its model, data set, loader, optimiser, scheduler and TrainingTask protocol.

python examples/timm_loop.py FOLDER_OF_CLASS_FOLDERS [EPOCHS]
"""

from __future__ import annotations

import sys

import timm
import torch
from timm.data import ImageDataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

import manyview
from manyview.integrations.timm import ViewsLoader, ViewsTask


def run(root: str, epochs: int, size: int = 32, batch_size: int = 64, workers: int = 2) -> list[float]:
    """Trains a small net on a folder of images; returns the mean loss of each epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = manyview.load_recipe("tied_cifar10")
    images = ImageDataset(root)
    classes = len(images.reader.class_to_idx)
    loader = ViewsLoader(
        create_loader(images, (3, size, size), batch_size, is_training=True, num_workers=workers, device=device),
        recipe,
        classes,
    )
    model = timm.create_model("resnet10t", num_classes=classes)
    task = ViewsTask(recipe, model=model, total_steps=epochs * len(loader), device=device)
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="sgd", lr=0.05, weight_decay=5e-4)
    task.step.attach(optimizer)
    scheduler = CosineLRScheduler(optimizer, t_initial=epochs)

    losses = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        scheduler.step(epoch)
        task.train()
        total = 0.0
        for input, target in loader:
            result = task(input, target)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            total += result["loss"].item()
        losses.append(total / len(loader))
        print(f"epoch {epoch}: loss {losses[-1]:.4f} (timm {timm.__version__})")
    return losses


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(__doc__)
    elif len(sys.argv) < 2:
        sys.exit(__doc__)
    else:
        run(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2)
