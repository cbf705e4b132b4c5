"""The three recipes as other libraries make them on a device: two views of a batch that lies there.

Each is a function `(recipe's name, device, images) -> a call that makes both views`; ImportError where it is not
installed, NotImplementedError where it has no such recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from views import JITTER, KERNEL, SIGMA

SIZES = {"simclr32": 32, "simclr224": 224, "supervised32": 32}
Make = Callable[[], tuple[Any, Any]]


def v2_of(name: str) -> Callable[[Tensor], Tensor]:
    """torchvision's pipeline for tensors, without conversion to floats."""
    if name == "supervised32":
        return v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.RandAugment(2, 14)])
    blur = [v2.RandomApply([v2.GaussianBlur(KERNEL, SIGMA)], p=0.5)] if name == "simclr224" else []
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZES[name], scale=(0.2, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8),
            v2.RandomGrayscale(0.2),
            *blur,
        ]
    )


def v2_batch(name: str, images: Tensor) -> Make:
    """One draw a batch, as it is meant, which is other work: all images are cut and coloured alike."""
    make = v2_of(name)
    return lambda: (make(images), make(images))


def v2_images(name: str, images: Tensor) -> Make:
    """A draw an image, as training needs it."""
    make = v2_of(name)
    return lambda: (torch.stack([make(each) for each in images]), torch.stack([make(each) for each in images]))


def kornia_of(name: str) -> nn.Module:
    """kornia on float batches; the order of its jitter is the batch's."""
    import kornia.augmentation as K

    if name == "supervised32":
        raise NotImplementedError("its RandAugment draws other ops")
    blur = [K.RandomGaussianBlur((KERNEL, KERNEL), SIGMA, p=0.5)] if name == "simclr224" else []
    return nn.Sequential(
        K.RandomResizedCrop((SIZES[name], SIZES[name]), scale=(0.2, 1.0), cropping_mode="resample"),
        K.RandomHorizontalFlip(),
        K.ColorJitter(*JITTER, p=0.8),
        K.RandomGrayscale(p=0.2),
        *blur,
    )


def kornia_eager(name: str, images: Tensor) -> Make:
    """As it is; from grey levels, which become floats."""
    make = kornia_of(name).to(images.device)
    return lambda: (make(images.float() / 255), make(images.float() / 255))


def kornia_compiled(name: str, images: Tensor) -> Make:
    """Through torch's compiler."""
    make = torch.compile(kornia_of(name).to(images.device))
    return lambda: (make(images.float() / 255), make(images.float() / 255))


def dali(name: str, images: Tensor) -> Make:
    """DALI's operators on the device, from images that lie there; on the CPU those of the CPU."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import rand_augment

    place = "gpu" if images.is_cuda else "cpu"
    rows = images.permute(0, 2, 3, 1).contiguous()
    batch = [*(rows if images.is_cuda else rows.numpy())]

    def supervised(pixels: Any) -> Any:
        start = fn.random.uniform(range=[-4, 5], shape=2)
        start = fn.cast(start, dtype=types.INT32)
        view = fn.slice(pixels, start=start, shape=[32, 32], axis_names="HW", out_of_bounds_policy="pad", fill_values=0)
        view = fn.flip(view, horizontal=fn.random.coin_flip(probability=0.5))
        return rand_augment.rand_augment(view, n=2, m=14)

    def simclr(pixels: Any) -> Any:
        size = SIZES[name]
        view = fn.random_resized_crop(pixels, size=[size, size], random_area=[0.2, 1.0], antialias=True)
        view = fn.flip(view, horizontal=fn.random.coin_flip(probability=0.5))
        factors = [fn.random.uniform(range=[1 - each, 1 + each]) for each in JITTER[:3]]
        hue = fn.random.uniform(range=[-360 * JITTER[3], 360 * JITTER[3]])
        if fn.random.coin_flip(probability=0.8, dtype=types.BOOL):
            view = fn.color_twist(view, brightness=factors[0], contrast=factors[1], saturation=factors[2], hue=hue)
        if fn.random.coin_flip(probability=0.2, dtype=types.BOOL):
            view = fn.saturation(view, saturation=0.0)
        if name == "simclr224" and fn.random.coin_flip(probability=0.5, dtype=types.BOOL):
            view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=list(SIGMA)), window_size=KERNEL)
        return view

    @pipeline_def(enable_conditionals=True)
    def pipeline() -> tuple[Any, Any]:
        pixels = fn.external_source(source=lambda: batch, batch=True, device=place, layout="HWC")
        make = supervised if name == "supervised32" else simclr
        return tuple(fn.transpose(make(pixels), perm=[2, 0, 1]) for _ in "ab")

    device = images.device.index or 0 if images.is_cuda else None
    run = pipeline(batch_size=len(batch), num_threads=torch.get_num_threads(), device_id=device, seed=0)
    run.build()
    return run.run


PEERS = {
    "torchvision v2, one draw a batch": v2_batch,
    "torchvision v2, a draw an image": v2_images,
    "kornia": kornia_eager,
    "kornia, compiled": kornia_compiled,
    "DALI": dali,
}
