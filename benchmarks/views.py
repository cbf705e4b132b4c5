"""Views of every image, two or more: manyview against the libraries and pipelines that are installed.

    python benchmarks/views.py [--cases simclr32,simclr224,…] [--cores one|all] [--reverse]
                               [--data DIR] [--out FILE]
    python benchmarks/views.py --profile          where manyview's own time goes

All sides of a case get the same images and the same recipe, and hand over all views as CHW tensors of a batch, uint8
or float as each does by nature, normalised by nobody. They take turns in one process: after a warm-up, every round
times each of them for about `--seconds`, so that a machine which slows down slows all. A side's speed is the median of
its rounds; its ratio is that of manyview's speed over its own in the same round: the median, and the extremes.
`--reverse` lets them take their turns in the opposite order, which must not change a ratio.

`--cores one` pins the process to one core, without any threads or workers, and counts processor time, so that other
programs on the machine disturb less; `cpu_share` in the JSON says how much of the core it had. After each side torch
must still have the threads that it was given: libraries that start threads of their own change its number, and the
benchmark then ends instead of measuring threads that wait for each other. Memory that a side frees stays with the
process (`keep_memory`), or the side before it decides how many pages it must ask for anew. `--cores all` counts
wall time and gives each side what its users give it: manyview, kornia and DALI threads, the others a worker process a
core.

`DIR` may hold `cifar10` and `tiny-imagenet` as parquet files; without them the images are synthetic. Peers that cannot
be imported are left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.metadata
import io
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from manyview.data import SOURCES, Subset, decode, preload
from manyview.views.engine.render import sizes_of
from manyview.views.plan import PlannedView, ViewSpec, plan_views
from manyview.views.view import View, draw_views, sample_views

SEED = 0
JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
SIGMA, KERNEL = (0.1, 2.0), 23
PHOTO = (375, 500)  # height, width of the JPEG files
TEXTURE = (
    (1, 4.0),
    (2, 6.0),
    (4, 8.0),
)  # grain in pixels, its strength in grey levels: what a photo has and an enlargement lacks
PACKAGES = (
    "manyview",
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "pillow",
    "lightly",
    "albumentations",
    "albumentationsx",
    "opencv-python-headless",
    "kornia",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
)

Views = tuple[Tensor, ...]  # [B, 3, h, w] for each view; of one image [3, h, w]


@dataclass(frozen=True)
class Inputs:
    """What a case starts from: `files`, the bytes of JPEG images, or images in memory.

    pixels: uint8 [N, 3, H, W]; arrays: the same as [N, H, W, 3], as PIL and OpenCV want them.
    """

    about: str
    files: tuple[bytes, ...] = ()
    pixels: Tensor = field(default_factory=lambda: torch.empty(0))
    arrays: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, dtype=np.uint8))

    @staticmethod
    def in_memory(about: str, pixels: Tensor) -> Inputs:
        """From uint8 [N, 3, H, W]."""
        return Inputs(about, (), pixels, pixels.permute(0, 2, 3, 1).contiguous().numpy())

    def __len__(self) -> int:
        return len(self.files) or len(self.pixels)

    def pil(self, position: int) -> Image.Image:
        """An image as pipelines of PIL receive it from their data set."""
        if self.files:
            return Image.open(io.BytesIO(self.files[position])).convert("RGB")
        return Image.fromarray(self.arrays[position])

    def array(self, position: int) -> NDArray[np.uint8]:
        """An image as pipelines of OpenCV receive it, RGB [H, W, 3]."""
        if self.files:
            import cv2

            coded = np.frombuffer(self.files[position], dtype=np.uint8)
            return cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)
        return self.arrays[position]

    def tensor(self, position: int) -> Tensor:
        """An image as pipelines of torchvision's tensors receive it, uint8 [3, H, W]."""
        if self.files:
            from torchvision.io import decode_jpeg

            return decode_jpeg(torch.frombuffer(bytearray(self.files[position]), dtype=torch.uint8))
        return self.pixels[position]


@dataclass(frozen=True)
class Work:
    """How a side makes a batch: `whole(positions [B], batch number)`, or `one(position)` and `finish(batch)`."""

    whole: Callable[[Tensor, int], Views] | None = None
    one: Callable[[int], Views] | None = None
    finish: Callable[[Views], Views] | None = None


@dataclass(frozen=True)
class Side:
    """A way to make the views of a case. make: builds it for (inputs, cores); ImportError where it is not installed."""

    name: str
    about: str
    make: Callable[[Inputs, int], Work]


@dataclass(frozen=True)
class Case:
    """A recipe and who can make it; the first side is what the others are compared with. views: of an image."""

    recipe: str | Mapping[str, str]
    batch: int
    inputs: Callable[[Path | None], Inputs]
    sides: tuple[Side, ...]
    views: int = 2


# --- manyview ---------------------------------------------------------------------------------------------------------


def plan(recipe: str | Mapping[str, str]) -> dict[str, PlannedView]:
    """Two views, drawn independently, or each as it is written."""
    if not isinstance(recipe, str):
        return plan_views(
            {name: ViewSpec.model_validate({"from": "image", "make": make}) for name, make in recipe.items()}
        )
    return plan_views({"a": ViewSpec.model_validate({"from": "image", "make": recipe}), "b": ViewSpec(like="a")})


def decode_and_draw(
    views: Mapping[str, PlannedView],
    files: Sequence[bytes],
    index: Tensor,
    epoch: int,
    threads: ThreadPoolExecutor | None,
) -> dict[str, View]:
    """From the bytes of a batch of files to its views; every file is decoded once."""
    return draw_views(views, decode_all(files, threads), None, index, epoch, SEED)


def decode_all(files: Sequence[bytes], threads: ThreadPoolExecutor | None) -> list[Tensor]:
    """manyview's decoding of a batch."""
    read = partial(decode, name="JPEG in memory")
    return list(threads.map(read, files) if threads else map(read, files))


def manyview_side(recipe: str | Mapping[str, str], inputs: Inputs, cores: int) -> Work:
    """Draws and renders a batch; `View.params` holds what was drawn."""
    views = plan(recipe)
    threads = ThreadPoolExecutor(cores) if cores > 1 else None

    def whole(positions: Tensor, number: int) -> Views:
        if inputs.files:
            drawn = decode_and_draw(views, [inputs.files[i] for i in positions.tolist()], positions, number, threads)
        else:
            drawn = draw_views(views, inputs.pixels.index_select(0, positions), None, positions, number, SEED)
        return tuple(view.images for view in drawn.values())

    return Work(whole=whole)


def profile(
    recipe: str | Mapping[str, str], inputs: Inputs, batch: int, cores: int, seconds: float
) -> dict[str, float]:
    """Seconds a batch that manyview spends on reading or decoding, on draws, and on rendering (all else)."""
    views = plan(recipe)
    clock = time.process_time if cores == 1 else time.perf_counter
    threads = ThreadPoolExecutor(cores) if cores > 1 else None
    spent = {"decode" if inputs.files else "read": 0.0, "draws": 0.0, "render": 0.0}
    first, *rest = spent
    warm, number, until = False, 0, float("inf")
    while not warm or time.perf_counter() < until:
        positions = positions_of(number, batch, len(inputs))
        start = clock()
        if inputs.files:
            images = decode_all([inputs.files[i] for i in positions.tolist()], threads)
        else:
            images = inputs.pixels.index_select(0, positions)
        read = clock()
        sample_views(views, sizes_of(images), positions, number, SEED)
        sampled = clock()
        draw_views(views, images, None, positions, number, SEED)
        done = clock()
        if warm:
            for part, value in ((first, read - start), (rest[0], sampled - read), (rest[1], done - 2 * sampled + read)):
                spent[part] += value
            number += 1
        else:
            warm, until = True, time.perf_counter() + seconds
    return {part: value / number for part, value in spent.items()}


# --- peers ------------------------------------------------------------------------------------------------------------


def twice(read: Callable[[int], Any], view: Callable[[Any], Tensor]) -> Work:
    """Reads an image once and makes two views of it."""

    def one(position: int) -> Views:
        image = read(position)
        return view(image), view(image)

    return Work(one=one)


class PilBlur:
    """Gaussian blur of a PIL image by a random radius, as in the code of MoCo."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*SIGMA)))


def lightly_side(size: int, blur: float, inputs: Inputs, cores: int) -> Work:
    """lightly's SimCLR transform of a PIL image."""
    from lightly.transforms import SimCLRTransform

    both = SimCLRTransform(
        input_size=size,
        cj_prob=0.8,
        cj_strength=1.0,
        cj_bright=JITTER[0],
        cj_contrast=JITTER[1],
        cj_sat=JITTER[2],
        cj_hue=JITTER[3],
        min_scale=0.2,
        random_gray_scale=0.2,
        gaussian_blur=blur,
        sigmas=SIGMA,
        normalize=None,
    )
    return Work(one=lambda position: tuple(both(inputs.pil(position))))


def pil_side(size: int, blur: float, inputs: Inputs, cores: int) -> Work:
    """torchvision's transforms of a PIL image, as in the code of MoCo, SimSiam and many others."""
    from torchvision import transforms as T

    steps = [
        T.RandomResizedCrop(size, scale=(0.2, 1.0)),
        T.RandomHorizontalFlip(),
        T.RandomApply([T.ColorJitter(*JITTER)], p=0.8),
        T.RandomGrayscale(0.2),
        *([T.RandomApply([PilBlur()], p=blur)] if blur else []),
        T.PILToTensor(),
    ]
    return twice(inputs.pil, T.Compose(steps))


def v2_side(size: int, blur: float, inputs: Inputs, cores: int) -> Work:
    """torchvision's v2 transforms of a uint8 tensor."""
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8),
        v2.RandomGrayscale(0.2),
        *([v2.RandomApply([v2.GaussianBlur(KERNEL, SIGMA)], p=blur)] if blur else []),
    ]
    return twice(inputs.tensor, v2.Compose(steps))


def albumentations_side(size: int, blur: float, area: bool, inputs: Inputs, cores: int) -> Work:
    """albumentations, or its successor albumentationsx, on arrays, with the parameters that it reports.

    They call their arguments by other names, and agree on the positions.
    """
    for switch in ("NO_ALBUMENTATIONS_UPDATE", "ALBUMENTATIONS_OFFLINE", "ALBUMENTATIONS_NO_TELEMETRY"):
        os.environ.setdefault(switch, "1")  # they would ask the network for news
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    make = A.Compose(
        [
            A.RandomResizedCrop(
                (size, size), scale=(0.2, 1.0), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR
            ),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(*[(1 - j, 1 + j) for j in JITTER[:3]], (-JITTER[3], JITTER[3]), p=0.8),
            A.ToGray(p=0.2),
            *([A.GaussianBlur((KERNEL, KERNEL), SIGMA, p=blur)] if blur else []),
            ToTensorV2(),
        ],
        save_applied_params=True,
    )
    return twice(inputs.array, lambda image: make(image=image)["image"])


def kornia_colour(blur: float) -> torch.nn.Sequential:
    """The colour ops on float batches."""
    import kornia.augmentation as K

    return torch.nn.Sequential(
        K.ColorJitter(*JITTER, p=0.8),
        K.RandomGrayscale(p=0.2),
        *([K.RandomGaussianBlur((KERNEL, KERNEL), SIGMA, p=blur)] if blur else []),
    )


def kornia_side(size: int, inputs: Inputs, cores: int) -> Work:
    """kornia on float batches; its modules keep the parameters of the last batch."""
    import kornia.augmentation as K

    make = torch.nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0), cropping_mode="resample"),
        K.RandomHorizontalFlip(),
        kornia_colour(0.0),
    )

    def whole(positions: Tensor, number: int) -> Views:
        images = inputs.pixels.index_select(0, positions).float() / 255
        return make(images), make(images)

    return Work(whole=whole)


def augself_side(size: int, blur: float, inputs: Inputs, cores: int) -> Work:
    """PIL crops and flips each image, kornia colours the batch: the split of AugSelf's code."""
    from torchvision import transforms as T

    crop = T.Compose([T.RandomResizedCrop(size, scale=(0.2, 1.0)), T.RandomHorizontalFlip(), T.PILToTensor()])
    colour = kornia_colour(blur)

    def finish(views: Views) -> Views:
        return tuple(colour(view.float() / 255) for view in views)

    return Work(one=twice(inputs.pil, crop).one, finish=finish)


def dali_side(size: int, batch: int, blur: float, inputs: Inputs, cores: int) -> Work:
    """DALI's CPU operators; nothing is prepared ahead, since the others would pay for it."""
    from nvidia.dali import fn, pipeline_def, types

    def one_view(images: Any) -> Any:
        view = fn.random_resized_crop(images, size=[size, size], random_area=[0.2, 1.0], antialias=True)
        view = fn.flip(view, horizontal=fn.random.coin_flip(probability=0.5))
        factors = [fn.random.uniform(range=[1 - j, 1 + j]) for j in JITTER[:3]]
        hue = fn.random.uniform(range=[-360 * JITTER[3], 360 * JITTER[3]])
        if fn.random.coin_flip(probability=0.8, dtype=types.BOOL):
            view = fn.color_twist(view, brightness=factors[0], contrast=factors[1], saturation=factors[2], hue=hue)
        if fn.random.coin_flip(probability=0.2, dtype=types.BOOL):
            view = fn.saturation(view, saturation=0.0)
        sigma = fn.random.uniform(range=list(SIGMA))
        if fn.random.coin_flip(probability=blur, dtype=types.BOOL):
            view = fn.gaussian_blur(view, sigma=sigma, window_size=KERNEL)
        return fn.transpose(view, perm=[2, 0, 1])

    asked: list[list[NDArray[np.uint8]]] = []

    @pipeline_def(enable_conditionals=True)
    def pipeline() -> tuple[Any, Any]:
        images = fn.decoders.image(
            fn.external_source(source=lambda: asked.pop(), batch=True), device="cpu", output_type=types.RGB
        )
        return one_view(images), one_view(images)

    run = pipeline(
        batch_size=batch, num_threads=cores, device_id=None, seed=SEED, exec_pipelined=False, exec_async=False
    )
    run.build()

    def whole(positions: Tensor, number: int) -> Views:
        asked.append([np.frombuffer(inputs.files[i], dtype=np.uint8) for i in positions.tolist()])
        a, b = (torch.from_numpy(np.asarray(out.as_tensor())).clone() for out in run.run())
        return a, b

    return Work(whole=whole)


def dino_side(inputs: Inputs, cores: int) -> Work:
    """lightly's DINO transform of a PIL image: two large crops and six small ones."""
    from lightly.transforms import DINOTransform

    every = DINOTransform(normalize=None)
    return Work(one=lambda position: tuple(every(inputs.pil(position))))


def policy_pil_side(size: int, name: str, inputs: Inputs, cores: int) -> Work:
    """A policy among torchvision's transforms of a PIL image: RandAugment of crops, AugMix of shifted images."""
    from torchvision import transforms as T

    cut = T.RandomCrop(size, padding=4) if size == 32 else T.RandomResizedCrop(size)
    policy = T.AugMix(3) if name == "augmix" else T.RandAugment(2, 9)
    return twice(inputs.pil, T.Compose([cut, T.RandomHorizontalFlip(), policy, T.PILToTensor()]))


def randaugment_pil_side(inputs: Inputs, cores: int) -> Work:
    """torchvision's transforms of a PIL image."""
    from torchvision import transforms as T

    steps = [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.RandAugment(2, 14), T.PILToTensor()]
    return twice(inputs.pil, T.Compose(steps))


def randaugment_v2_side(inputs: Inputs, cores: int) -> Work:
    """torchvision's v2 transforms of a uint8 tensor."""
    from torchvision.transforms import v2

    steps = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.RandAugment(2, 14)]
    return twice(inputs.tensor, v2.Compose(steps))


# --- images -----------------------------------------------------------------------------------------------------------


def small_images(data: Path | None, count: int = 10240) -> Inputs:
    """CIFAR-10's first training images, or synthetic ones of its size, in memory."""
    root = data / "cifar10" if data else None
    if root and root.is_dir():
        images = preload(Subset(SOURCES["cifar10"](root, download=False).train, np.arange(count)))
        return Inputs.in_memory(f"{count} images of CIFAR-10, 32x32, uint8 in memory", images.pixels)
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.stack([cloud(32, 32, generator) for _ in range(count)])
    return Inputs.in_memory(f"{count} synthetic images, 32x32, uint8 in memory", pixels)


def photos(data: Path | None, count: int = 256) -> Inputs:
    """JPEG files of 500x375 pixels, quality 90, 4:2:0: enlarged images of Tiny ImageNet, or clouds, with texture."""
    generator = torch.Generator().manual_seed(SEED)
    root = data / "tiny-imagenet" if data else None
    source = SOURCES["hf"](root, download=False).train if root and root.is_dir() else None
    files = []
    for number in range(count):
        if source is None:
            base = cloud(*PHOTO, generator)
        else:
            small = source.read(number * len(source) // count)[None].float()
            base = F.interpolate(small, PHOTO, mode="bicubic", align_corners=False)[0]
        texture = sum(
            amplitude * F.interpolate(noise, PHOTO, mode="bilinear", align_corners=False)[0]
            for scale, amplitude in TEXTURE
            for noise in [torch.randn(1, 1, PHOTO[0] // scale, PHOTO[1] // scale, generator=generator)]
        )
        pixels = (base.float() + texture).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling="4:2:0")
        files.append(file.getvalue())
    size = sum(map(len, files)) / count / 1000
    kind = "synthetic images" if source is None else "enlarged images of Tiny ImageNet"
    about = f"{count} {kind} with texture, JPEG {PHOTO[1]}x{PHOTO[0]}, quality 90, 4:2:0, {size:.0f} kB each"
    return Inputs(about, tuple(files))


def cloud(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A coloured image whose contrast falls with frequency as a photo's does, uint8 [3, H, W]."""
    total = torch.full((1, 3, height, width), 128.0)
    cells = 2
    while cells <= max(height, width):
        coarse = torch.randn(1, 3, cells, cells, generator=generator) + torch.randn(
            1, 1, cells, cells, generator=generator
        )
        total += 60 / cells**0.8 * F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
        cells *= 2
    return total[0].clamp(0, 255).to(torch.uint8)


# --- cases ------------------------------------------------------------------------------------------------------------

SIMCLR = "flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2)"
SIMCLR32 = f"crop(32, scale=(0.2, 1)) | {SIMCLR}"
SIMCLR224 = f"crop(224, scale=(0.2, 1)) | {SIMCLR} | blur(sigma=(0.1, 2), p=0.5, kernel=23)"
SUPERVISED32 = "pad_crop(32, padding=4) | flip(0.5) | randaugment(2, 14)"
RANDAUGMENT224 = "crop(224) | flip(0.5) | randaugment(2, 9)"
AUGMIX32 = "pad_crop(32, padding=4) | flip(0.5) | augmix(3)"
# DINO's, with the strengths of lightly's DINOTransform
DINO_COLOUR = "flip(0.5) | jitter(0.4, 0.4, 0.2, 0.1, p=0.8) | grayscale(0.2)"
MULTICROP = {
    "a": f"crop(224, scale=(0.4, 1)) | {DINO_COLOUR} | blur(sigma=(0.1, 2), p=1)",
    "b": f"crop(224, scale=(0.4, 1)) | {DINO_COLOUR} | blur(sigma=(0.1, 2), p=0.1) | solarize(0.5, p=0.2)",
    **{f"small_{n}": f"crop(96, scale=(0.05, 0.4)) | {DINO_COLOUR} | blur(sigma=(0.1, 2), p=0.5)" for n in range(6)},
}

CASES = {
    "simclr32": Case(
        SIMCLR32,
        512,
        small_images,
        (
            Side("manyview", "batches; antialiased crop", partial(manyview_side, SIMCLR32)),
            Side("lightly", "SimCLRTransform, PIL; antialiased crop", partial(lightly_side, 32, 0.0)),
            Side("torchvision PIL", "image by image; antialiased crop", partial(pil_side, 32, 0.0)),
            Side("torchvision v2", "tensors, image by image; antialiased crop", partial(v2_side, 32, 0.0)),
            Side("albumentations area", "INTER_AREA crop", partial(albumentations_side, 32, 0.0, True)),
            Side("albumentations bilinear", "bilinear crop", partial(albumentations_side, 32, 0.0, False)),
            Side("kornia", "float batches; bilinear crop", partial(kornia_side, 32)),
        ),
    ),
    "simclr224": Case(
        SIMCLR224,
        32,
        photos,
        (
            Side("manyview", "one decoding; antialiased crop", partial(manyview_side, SIMCLR224)),
            Side("lightly", "SimCLRTransform, PIL; antialiased crop", partial(lightly_side, 224, 0.5)),
            Side("MoCo PIL", "torchvision PIL, PIL's blur; antialiased crop", partial(pil_side, 224, 0.5)),
            Side("torchvision v2", "tensors, image by image; antialiased crop", partial(v2_side, 224, 0.5)),
            Side("AugSelf", "PIL crop (antialiased), kornia colour and blur", partial(augself_side, 224, 0.5)),
            Side("albumentations area", "INTER_AREA crop", partial(albumentations_side, 224, 0.5, True)),
            Side("albumentations bilinear", "bilinear crop", partial(albumentations_side, 224, 0.5, False)),
            Side("DALI", "CPU operators; antialiased crop", partial(dali_side, 224, 32, 0.5)),
        ),
    ),
    "supervised32": Case(
        SUPERVISED32,
        512,
        small_images,
        (
            Side("manyview", "batches", partial(manyview_side, SUPERVISED32)),
            Side("torchvision PIL", "image by image", randaugment_pil_side),
            Side("torchvision v2", "tensors, image by image", randaugment_v2_side),
        ),
    ),
    "randaugment224": Case(
        RANDAUGMENT224,
        32,
        photos,
        (
            Side("manyview", "one decoding; antialiased crop", partial(manyview_side, RANDAUGMENT224)),
            Side("torchvision PIL", "image by image; antialiased crop", partial(policy_pil_side, 224, "randaugment")),
        ),
    ),
    "augmix32": Case(
        AUGMIX32,
        512,
        small_images,
        (
            Side("manyview", "batches", partial(manyview_side, AUGMIX32)),
            Side("torchvision PIL", "image by image", partial(policy_pil_side, 32, "augmix")),
        ),
    ),
    "multicrop": Case(
        MULTICROP,
        16,
        photos,
        (
            Side("manyview", "one decoding; antialiased crops", partial(manyview_side, MULTICROP)),
            Side("lightly", "DINOTransform, PIL; antialiased crops", dino_side),
        ),
        views=8,
    ),
}


# --- timing -----------------------------------------------------------------------------------------------------------


def positions_of(number: int, batch: int, count: int) -> Tensor:
    """Which images are in batch `number`: in order, round and round; int64 [batch]."""
    return (number * batch + torch.arange(batch)) % count


class _Lookup(Dataset[Views]):
    def __init__(self, one: Callable[[int], Views]) -> None:
        self.one = one

    def __getitem__(self, position: int) -> Views:
        return self.one(position)


class Runner:
    """Makes batches of one side. `batches(n)` makes n of them, the next ones, and returns the last."""

    def __init__(self, work: Work, count: int, batch: int, cores: int, views: int) -> None:
        self.work, self.count, self.batch, self.cores, self.views = work, count, batch, cores, views
        self.number = self._ahead = 0
        self.loader: DataLoader[Views] | None = None
        if work.one is not None and cores > 1:
            self.loader = DataLoader(
                _Lookup(work.one),
                batch_sampler=self,  # type: ignore[arg-type]
                num_workers=cores,
                persistent_workers=True,
            )

    def __iter__(self) -> Iterator[list[int]]:
        """The positions of the batches asked for, for the workers."""
        for number in range(self.number, self.number + self._ahead):
            yield positions_of(number, self.batch, self.count).tolist()

    def __len__(self) -> int:
        return self._ahead

    def batches(self, count: int) -> Views:
        """Nothing is made ahead of the call or left to be made after it."""
        views: Views | None = None
        self._ahead = count
        if self.loader is not None:
            for ready in self.loader:
                views = self._finished(ready)
        else:
            for number in range(self.number, self.number + count):
                positions = positions_of(number, self.batch, self.count)
                if self.work.whole is not None:
                    views = self.work.whole(positions, number)
                elif self.work.one is not None:
                    views = self._finished(default_collate([self.work.one(i) for i in positions.tolist()]))
        self.number += count
        assert views is not None
        return views

    def _finished(self, views: Views) -> Views:
        return views if self.work.finish is None else self.work.finish(views)

    def views_per_second(self, count: int) -> tuple[float, float]:
        """Speed over `count` batches, and the share of the time that the process had a core for itself.

        On one core, the speed is that of processor time: what other programs take does not count.
        """
        wall, cpu = time.perf_counter(), time.process_time()
        self.batches(count)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return self.views * self.batch * count / (cpu if self.cores == 1 else wall), cpu / wall


def measure(
    case: Case, inputs: Inputs, cores: int, rounds: int, seconds: float, wanted: Sequence[str], reverse: bool
) -> dict[str, Any]:
    """Times the sides of a case in turns: name -> what it is, what it gives, views/s of each round."""
    runners: dict[str, tuple[Side, Runner, int]] = {}
    result: dict[str, Any] = {}
    for side in reversed(case.sides) if reverse else case.sides:
        if wanted and side.name not in wanted:
            continue
        try:
            runner = Runner(side.make(inputs, cores), len(inputs), case.batch, cores, case.views)
        except ImportError as error:
            print(f"{side.name} left out: {error}", file=sys.stderr)
            continue
        runner.batches(1)  # compiles and starts what there is, threads too
        limit_threads(cores)
        views = runner.batches(2)
        check_threads(side.name, cores)
        count = max(1, round(seconds * runner.views_per_second(2)[0] / (case.views * case.batch)))
        runners[side.name] = (side, runner, count)
        level = torch.cat([view.flatten() for view in views]).float() / (255 if views[0].dtype == torch.uint8 else 1)
        shape = " ".join(sorted({"x".join(map(str, view.shape[1:])) for view in views}))
        result[side.name] = {
            "about": side.about,
            "gives": f"{str(views[0].dtype).removeprefix('torch.')} {shape}",
            "mean": round(level.mean().item(), 4),
            "std": round(level.std().item(), 4),
            "views_per_second": [],
            "cpu_share": [],
        }
    for _ in range(rounds):
        for name, (_, runner, count) in runners.items():
            speed, share = runner.views_per_second(count)
            check_threads(name, cores)
            result[name]["views_per_second"].append(round(speed, 1))
            result[name]["cpu_share"].append(round(share, 3))
    base = result.get(case.sides[0].name)
    for row in result.values():
        speeds = row["views_per_second"]
        row["median"] = statistics.median(speeds)
        if base is not None:
            ratios = [ours / theirs for ours, theirs in zip(base["views_per_second"], speeds, strict=True)]
            row["ratio"] = {
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
            }
    return result


def pin(cores: str) -> int:
    """Keeps the process on one core, without threads, or lets it use all; returns how many it may use."""
    usable = sorted(os.sched_getaffinity(0))
    count = len(usable) if cores == "all" else 1
    for task in os.listdir("/proc/self/task"):  # libraries have started threads by now
        os.sched_setaffinity(int(task), usable[-count:])
    limit_threads(count)
    return count


def limit_threads(count: int) -> None:
    """Gives every library that is there so many threads. torch comes last: numba's layer, which starts with the first
    word about its threads, sets the number of OpenMP's, and those are torch's too."""
    with contextlib.suppress(ImportError):
        import numba

        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(0)
    torch.set_num_threads(count)


def check_threads(name: str, count: int) -> None:
    """Ends the benchmark where a side has changed the number of torch's threads: all sides share them."""
    if torch.get_num_threads() != count:
        sys.exit(f"{name} set torch to {torch.get_num_threads()} threads, it was given {count}: no speed would be true")


def machine() -> dict[str, Any]:
    """Processor and versions; nothing that names the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "versions": versions}


def show(name: str, result: Mapping[str, Any], about: str, console: Console) -> None:
    """Prints one case as a table."""
    table = Table(title=f"{name}: {about}", title_justify="left")
    for column, justify in (("side", "left"), ("how", "left"), ("gives", "left")):
        table.add_column(column, justify=justify)
    for column in ("views/s", "min", "max", "manyview is faster by", "min", "max"):
        table.add_column(column, justify="right")
    for side, row in result.items():
        speeds, ratio = row["views_per_second"], row.get("ratio")
        ratios = [f"{ratio[key]:.2f}x" for key in ("median", "min", "max")] if ratio else [""] * 3
        speed = [f"{value:,.0f}" for value in (row["median"], min(speeds), max(speeds))]
        table.add_row(side, row["about"], row["gives"], *speed, *ratios)
    console.print(table)


def keep_memory() -> None:
    """Lets glibc keep freed memory, large blocks as well; elsewhere nothing.

    By default glibc returns large blocks to the system until it has seen some of that size freed, and what lies at the
    heap's end by where other blocks happen to lie. Sides of large float batches then cost a quarter more or less by
    who ran before them: kornia 12.4x in one order of the sides, 15.7x in the other; with this 12.9x and 13.4x.
    """
    trim_threshold, mmap_threshold = -1, -3  # of mallopt(3)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def main() -> None:
    """Reads the command line, times, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated")
    parser.add_argument("--sides", default="", help="comma-separated names, as in the table; all by default")
    parser.add_argument("--cores", choices=("one", "all"), default="one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side in each round")
    parser.add_argument("--reverse", action="store_true", help="sides take their turns in the opposite order")
    parser.add_argument("--data", type=Path, help="folder with cifar10/ and tiny-imagenet/")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--profile", action="store_true", help="only manyview, and where its time goes")
    args = parser.parse_args()
    names = args.cases.split(",")
    wanted = [name for name in args.sides.split(",") if name]
    known = {side.name for case in CASES.values() for side in case.sides}
    if missing := [name for name in wanted if name not in known]:
        parser.error(f"no side {', '.join(missing)}; sides: {', '.join(sorted(known))}")
    if missing := [name for name in names if name not in CASES]:
        parser.error(f"no case {', '.join(missing)}; cases: {', '.join(CASES)}")

    report: dict[str, Any] = machine()
    keep_memory()
    cores = pin(args.cores)
    report |= {"used_cores": cores, "rounds": args.rounds, "seconds": args.seconds, "reverse": args.reverse}
    report["cases"] = {}
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(report["cpu"] + "; " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    with torch.inference_mode():
        for name in names:
            case = CASES[name]
            inputs = case.inputs(args.data)
            recipe = (
                case.recipe if isinstance(case.recipe, str) else "; ".join(f"{k}: {v}" for k, v in case.recipe.items())
            )
            about = f"{recipe}\n{inputs.about}; batches of {case.batch}; cores: {cores}"
            row: dict[str, Any] = {"recipe": case.recipe, "images": inputs.about, "batch": case.batch}
            if args.profile:
                parts = profile(case.recipe, inputs, case.batch, cores, args.rounds * args.seconds)
                total = sum(parts.values())
                row["seconds_per_batch"] = parts
                shares = ", ".join(f"{part} {value / total:.0%}" for part, value in parts.items())
                console.print(
                    f"{name}: {about}\n  {total * 1e6 / case.batch:.1f} us an image ({case.views} views): {shares}"
                )
            else:
                row["sides"] = measure(case, inputs, cores, args.rounds, args.seconds, wanted, args.reverse)
                show(name, row["sides"], about, console)
            report["cases"][name] = row
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
