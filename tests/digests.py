"""Digests of rendered views: of every op, at three strengths where it has such, of recipes, and of every corruption.

    python tests/digests.py           shows what has changed against tests/digests.json
    python tests/digests.py --write   keeps what there is now

A view that changes a bit shows older runs otherwise than they were seen: digests change on purpose or not at all, and
`docs/log.md` says why. They are the same on every processor (`tests/instruction_sets.py` tries several).
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

from manyview.evaluate.corruptions import CORRUPTIONS, corrupt, corruption
from manyview.load import load_recipe
from manyview.views.ops import OPS
from manyview.views.ops.erase import noise
from manyview.views.ops.orbit import ORBITS
from manyview.views.plan import TEST, ViewSpec, of_stream, plan_views
from manyview.views.streams import STREAMS
from manyview.views.view import View, draw_views

STORED = Path(__file__).with_name("digests.json")
COUNT, SIDE = 6, 40
# mild, middle and strong, each applied; one line where there is nothing to strengthen
STRENGTHS = {
    "affine": ["affine(5)", "affine(30, (0.1, 0.2), shear=10, interpolation='bilinear')",
               "affine(180, (0.5, 0.5), (0.3, 3), 40, interpolation='bilinear', fill=0.5)"],
    "augmix": ["augmix(1)", "augmix(3)", "augmix(10)"],
    "autoaugment": ["autoaugment", "autoaugment('cifar10', interpolation='bilinear')", "autoaugment('svhn', fill=0.5)"],
    "autocontrast": ["autocontrast(1)"],
    "blur": ["blur(0.3, 1)", "blur((0.1, 2), 1, 9)", "blur(5, 1)"],
    "brightness": ["brightness(0.9)", "brightness((0.6, 1.4))", "brightness(3)"],
    "center_crop": ["center_crop(39)", "center_crop(24)", "center_crop((3, 20))"],
    "channel_permutation": ["channel_permutation"],
    "color": ["color(0.9)", "color((0.6, 1.4))", "color(3)"],
    "contrast": ["contrast(0.9)", "contrast((0.6, 1.4))", "contrast(3)"],
    "crop": ["crop(40, scale=(0.8, 1))", "crop(24)", "crop((64, 9), scale=(0.05, 0.6), ratio=(0.5, 2))"],
    "cutmix": ["cutmix(beta=0.2)", "cutmix(beta=1)", "cutmix(beta=8)"],
    "cutout": ["cutout(2)", "cutout(8)", "cutout(30, fill=0)"],
    "equalize": ["equalize(1)"],
    "erase": ["erase(1, scale=0.02)", "erase(1, value='noise')", "erase(1, scale=(0.5, 0.9), value=(0.1, 0.5, 1))"],
    "flip": ["flip(1)"],
    "grayscale": ["grayscale(1)"],
    "grid_shuffle": ["grid_shuffle(2)", "grid_shuffle", "grid_shuffle(9)"],
    "invert": ["invert(1)"],
    "jitter": ["jitter(0.1, 0.1, 0.1, 0.02)", "jitter(0.4, 0.4, 0.4, 0.1)", "jitter(0.9, 2, 2, 0.5)"],
    "lighting": ["lighting(0.02)", "lighting", "lighting(1)"],
    "mixup": ["mixup(alpha=0.2)", "mixup(alpha=1)", "mixup(alpha=8)"],
    "one_of": ["one_of('flip(1)', 'rotate(30)', p=(0.9, 0.1))", "one_of('randaugment(2, 9)', 'grid_shuffle(4)')",
               "one_of('invert(1)', 'blur(2, 1)', 'jitter(0.9)')"],
    "pad_crop": ["pad_crop(padding=1)", "pad_crop", "pad_crop((12, 30), padding=16, mode='reflect')"],
    "perspective": ["perspective(0.1, 1)", "perspective(0.5, 1, fill=0.4)", "perspective(1, 1, 'nearest')"],
    "posterize": ["posterize(7)", "posterize(4)", "posterize(1)"],
    "randaugment": ["randaugment(1, 3)", "randaugment(2, 14)",
                    "randaugment(4, 30, ops='tpu', interpolation='bilinear')"],
    "resize": ["resize(39)", "resize((30, 11))", "resize((90, 7))"],
    "rotate": ["rotate(3)", "rotate(30, interpolation='bilinear')", "rotate((90, 300), fill=1)"],
    "rotate90": ["rotate90"],
    "sharpness": ["sharpness(0.9)", "sharpness((0.1, 1.9))", "sharpness(5)"],
    "shear": ["shear((0.1, 0.1))", "shear((-0.2, -0.2), 0.2)", "shear(0.9, 0.9, interpolation='bilinear', fill=0.3)"],
    "soften": ["cutout(8) | soften"],
    "solarize": ["solarize(0.9)", "solarize(0.5)", "solarize(0.1)"],
    "solarize_add": ["solarize_add(0.05)", "solarize_add", "solarize_add(0.9, threshold=0.8)"],
    "translate": ["translate(0.05, 0.05)", "translate", "translate(0.9, 0.9, fill=0.5)"],
    "trivialaugment": ["trivialaugment('standard')", "trivialaugment", "trivialaugment(interpolation='bilinear')"],
    "uniformaugment": ["uniformaugment(1)", "uniformaugment", "uniformaugment(5, fill=0.5)"],
    "vflip": ["vflip(1)"],
}  # fmt: skip
CHAINS = [
    "crop(32, scale=(0.2, 1)) | flip | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2) | blur(kernel=9)",
    "pad_crop | flip | randaugment(2, 14) | cutout(8)",
    "resize(48) | flip | center_crop(40)",
    "resize(30) | center_crop(24) | jitter(0, 0, 0.9, saturate='hsv')",
    "randaugment(2, 9, ops='dssl') | trivialaugment(interpolation='bicubic')",
]
RECIPES = [  # whose views are unlike one another: mixed, eight of an image, orbits, policies, two streams
    *("agmax_cifar10_cutmix", "byol_imagenet", "dino_imagenet", "fixmatch_cifar10", "jsd_cifar10", "simclr_cifar10"),
    *("sla_cifar10", "swav_imagenet", "tied_cifar10", "tied_mixup_cifar10"),
]
VERSIONED = {"jpeg_compression"}  # whose pixels are those of the codec's version


def pictures() -> torch.Tensor:
    """uint8 [COUNT, 3, SIDE, SIDE]: noise and smooth slopes in turn, by whole numbers alone."""
    y, x = torch.arange(SIDE)[:, None], torch.arange(SIDE)[None]
    slopes = torch.stack([
        torch.stack([(5 * n + 20 * c + (3 + n) * x + (2 + c) * y) % 511 for c in range(3)]) for n in range(COUNT)
    ])  # fmt: skip
    smooth = torch.minimum(slopes, 510 - slopes)
    rough = noise(torch.arange(COUNT), torch.Size([3, SIDE, SIDE]))
    return torch.where((torch.arange(COUNT) % 2 == 0).view(-1, 1, 1, 1), rough, smooth).to(torch.uint8)


def digest(images: torch.Tensor) -> str:
    """Of the bits of an image batch."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()[:16]


def seen(make: str, images: torch.Tensor, compiled: bool, **more: object) -> torch.Tensor:
    """The images of one view."""
    plan = plan_views({"a": ViewSpec(**{"from": "image", "make": make, **more})})
    return draw_views(plan, images, None, range(len(images)), 1, 0, compiled=compiled)["a"].images


def digests() -> dict[str, str]:
    """What was made -> digest: compiled, by the reference from grey levels, by the reference from floats."""
    images, found = pictures(), {}
    for make in [make for each in STRENGTHS.values() for make in each] + CHAINS:
        ways = (seen(make, images, True), seen(make, images, False), seen(make, images.float() / 255, False))
        found[make] = " ".join(digest(way) for way in ways)
    for name in RECIPES:
        plan, labels = load_recipe(name).view_plan, torch.arange(COUNT)
        views: dict[str, View] = {}
        for stream in STREAMS:
            drawn = of_stream({view: each for view, each in plan.items() if view != TEST}, stream)
            views |= draw_views(drawn, images, labels, range(COUNT), 1, 0, COUNT)
        made = [each.images.flatten() for each in views.values()]
        levels = [each if each.dtype == torch.uint8 else each.contiguous().view(torch.uint8) for each in made]
        found[f"recipe {name}"] = digest(torch.cat(levels))
    for name in ORBITS:
        found[f"orbit {name}"] = digest(seen("flip(0)", images, True, orbit=name))
    for name in sorted(CORRUPTIONS.keys() - VERSIONED):
        for severity in (1, 3, 5):
            made = corrupt(images, corruption(name, severity, 32), range(COUNT))
            found[f"{name} {severity}"] = digest(made)
    return found


def stored() -> dict[str, str]:
    """The digests that are kept."""
    return json.loads(STORED.read_text())


if __name__ == "__main__":
    assert STRENGTHS.keys() == OPS.keys()
    now = digests()
    if sys.argv[1:] == ["--write"]:
        STORED.write_text(json.dumps(now, indent=1) + "\n")
    else:
        for what in now.keys() | stored().keys():
            if now.get(what) != stored().get(what):
                print(f"{what}: {stored().get(what)} is now {now.get(what)}")
