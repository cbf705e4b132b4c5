"""Ops with arguments, and images to try them on: what several test modules share."""

import torch

from manyview.views.ops.op import as_float

# op, arguments; every op of the table stands here, in its default form where it has one and in unlike others
CASES = [
    ("affine", {}),
    ("affine", {"degrees": 40, "translate": (0.3, 0.1), "scale": (0.5, 1.5), "shear": (-9, 5, 2, 20), "fill": 0.5}),
    ("affine", {"degrees": (10, 90), "shear": 30, "scale": 2, "interpolation": "bilinear", "p": 0.5}),
    ("autocontrast", {}),
    ("brightness", {}),
    ("brightness", {"factor": 1.7, "p": 0.5}),
    ("color", {}),
    ("color", {"factor": (0.1, 1.9), "p": 0.5}),
    ("contrast", {}),
    ("contrast", {"factor": 0, "p": 0.5}),
    ("equalize", {}),
    ("erase", {}),
    ("erase", {"p": 1.0, "value": (0.1, 0.5, 1)}),
    ("erase", {"p": 0.8, "scale": (0.3, 0.5), "ratio": 1, "value": "noise"}),
    ("grid_shuffle", {}),
    ("grid_shuffle", {"p": 0.5}),
    ("invert", {}),
    ("lighting", {}),
    ("lighting", {"std": 1, "p": 0.5}),
    ("perspective", {}),
    ("perspective", {"distortion_scale": 1, "p": 1.0, "interpolation": "nearest", "fill": 0.7}),
    ("posterize", {}),
    ("posterize", {"bits": (0, 8), "p": 0.5}),
    ("rotate", {}),
    ("rotate", {"degrees": (-170, 300), "p": 0.5, "interpolation": "bilinear", "fill": 1.0}),
    ("sharpness", {}),
    ("sharpness", {"factor": 3, "p": 0.5}),
    ("shear", {}),
    ("shear", {"x": (0.1, 0.2), "y": 0.5, "p": 0.5, "interpolation": "bilinear", "fill": 0.3}),
    ("solarize_add", {}),
    ("solarize_add", {"amount": (-0.5, 0.5), "threshold": 0.8, "p": 0.5}),
    ("translate", {}),
    ("translate", {"x": (0.2, 0.9), "y": 0.0, "p": 0.5, "fill": 0.5}),
    ("augmix", {}),
    ("augmix", {"severity": 10, "width": 2, "depth": 2, "alpha": 0.3, "all_ops": False, "fill": 0.5}),
    ("autoaugment", {}),
    ("autoaugment", {"policy": "cifar10", "interpolation": "bilinear"}),
    ("autoaugment", {"policy": "svhn", "fill": 0.5}),
    ("blur", {}),
    ("blur", {"sigma": 1.5, "p": 1.0, "kernel": 5}),
    ("blur", {"sigma": (3.0, 9.0), "p": 1.0}),  # wider than the image
    ("center_crop", {"size": 16}),
    ("center_crop", {"size": (7, 20)}),
    ("channel_permutation", {}),
    ("channel_permutation", {"p": 0.5}),
    ("crop", {"size": 16}),
    ("crop", {"size": (40, 9), "scale": (0.2, 0.6), "ratio": (0.5, 2.0)}),
    ("crop", {"size": 24, "scale": 1.0, "ratio": 1.0}),
    ("cutout", {"size": 8}),
    ("cutout", {"size": 5, "p": 0.5, "fill": 0.0}),
    ("flip", {}),
    ("flip", {"p": 1}),
    ("grayscale", {}),
    ("grayscale", {"p": 0.5}),
    ("jitter", {}),
    ("jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8}),
    ("jitter", {"brightness": (0.3, 0.7), "contrast": 2, "saturation": (1.5, 1.5), "hue": (0.1, 0.5)}),
    ("jitter", {"brightness": 0.4, "saturation": (0.1, 3.0), "hue": 0.1, "saturate": "hsv"}),
    ("pad_crop", {}),
    ("pad_crop", {"size": (12, 30), "padding": 5}),
    ("pad_crop", {"padding": 3, "mode": "reflect"}),
    ("randaugment", {}),
    ("randaugment", {"n": 3, "m": 30}),
    ("randaugment", {"n": 1, "m": 0}),
    ("randaugment", {"n": 4, "m": 9, "ops": "tpu"}),
    ("randaugment", {"n": 4, "m": 9, "ops": "dssl"}),
    ("randaugment", {"n": 3, "m": 14, "interpolation": "bicubic"}),
    ("randaugment", {"n": 4, "m": 30, "ops": "tpu", "fill": 0.2, "interpolation": "bilinear"}),
    ("resize", {"size": 16}),
    ("resize", {"size": (30, 11)}),
    ("rotate90", {}),
    ("solarize", {}),
    ("solarize", {"threshold": (0.1, 0.9), "p": 0.5}),
    ("trivialaugment", {}),
    ("trivialaugment", {"space": "standard", "fill": 0.3, "interpolation": "bilinear"}),
    ("uniformaugment", {}),
    ("uniformaugment", {"n": 5, "fill": 0.5}),
    ("vflip", {}),
    ("vflip", {"p": 1}),
]
SQUARE, OBLONG = (24, 24), (23, 31)
SETTINGS = [(*case, size) for case in CASES for size in (SQUARE, OBLONG) if case[0] != "rotate90" or size == SQUARE]
RGB = {"channel_permutation", "color", "contrast", "grayscale", "jitter", "lighting"}  # refuse other channel counts


def photos(count, size, dtype=torch.uint8, seed=0):
    """Half noise, half smooth gradients, so that both fine detail and flat areas are there."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear").mul(255).round().to(torch.uint8)
    images = torch.where((torch.arange(count) % 2 == 0).view(-1, 1, 1, 1), noise, smooth)
    return images if dtype == torch.uint8 else as_float(images)
