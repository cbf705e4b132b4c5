"""Small data sets of PIL images, in timm's shape, whose classes are colours."""

import numpy as np
import torch
from PIL import Image


class Pictures:
    """A data set of (PIL image, target), as timm's, whose loader gives it a transform."""

    def __init__(self, images, targets):
        self.images, self.targets, self.transform = images, targets, None

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        image, target = Image.fromarray(self.images[position]), self.targets[position]
        return (image if self.transform is None else self.transform(image)), target

    def uint8(self, positions):
        """Images [B, 3, H, W]."""
        return torch.from_numpy(np.stack([self.images[int(p)] for p in positions])).permute(0, 3, 1, 2)

    def labels(self, positions):
        """Targets [B]."""
        return torch.tensor([self.targets[int(p)] for p in positions])


def coloured(count=48, size=16, classes=3, seed=0):
    """Noise around a colour of the class."""
    drawn = np.random.default_rng(seed)
    targets = [int(target) for target in drawn.integers(classes, size=count)]
    colors = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [190, 190, 60]])
    noise = drawn.integers(-60, 60, size=(count, size, size, 3))
    images = [(colors[t] + n).clip(0, 255).astype(np.uint8) for t, n in zip(targets, noise, strict=True)]
    return Pictures(images, targets)
