"""Draws docs/ops.png, every op at three strengths:  python docs/make_ops.py [IMAGE [OTHER]] [--out PNG]

Without an image it draws two scenes of its own; OTHER is what mixup and cutmix mix in. `--recipe FILE` writes the
recipe, with a view for each picture, for `manyview views FILE IMAGE OTHER --columns 6 --out PNG`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from manyview import parse_recipe
from manyview.show.pictures import save_picture
from manyview.show.sheet import contact_sheet

SIDE, COLUMNS = 144, 6
SEED = 431201  # of those tried, one whose draws leave no op without an effect
STRENGTHS = ("weak", "medium", "strong")

# from weak to strong; ops that only a coin decides on, once. What an op needs before it to be seen stands before it.
OPS_AT: dict[str, tuple[str, ...]] = {
    "crop": tuple(f"crop({SIDE}, scale=({share}, {share}))" for share in (0.6, 0.3, 0.08)),
    "center_crop": ("center_crop(72)", "center_crop(48)", "center_crop(36)"),
    "pad_crop": ("pad_crop(padding=8)", "pad_crop(padding=24)", "pad_crop(padding=72)"),
    "resize": ("resize(72)", "resize(36)", "resize(18)"),
    "rotate90": ("rotate90()",) * 3,
    "rotate": ("rotate((15, 15))", "rotate((45, 45))", "rotate((120, 120))"),
    "shear": ("shear((0.1, 0.1))", "shear((0.3, 0.3))", "shear((0.3, 0.3), y=(0.3, 0.3))"),
    "translate": tuple(f"translate(({share}, {share}), ({share}, {share}))" for share in (0.05, 0.15, 0.45)),
    "affine": (
        "affine(10, translate=(0.1, 0.1))",
        "affine(30, translate=(0.1, 0.1), scale=(0.7, 1.3))",
        "affine(90, translate=(0.2, 0.2), scale=(0.5, 1.5), shear=30)",
    ),
    "perspective": ("perspective(0.2, p=1)", "perspective(0.5, p=1)", "perspective(0.9, p=1)"),
    "grid_shuffle": ("grid_shuffle(2)", "grid_shuffle(3)", "grid_shuffle(4)"),
    "brightness": ("brightness(0.7)", "brightness(1.5)", "brightness(2.5)"),
    "contrast": ("contrast(0.6)", "contrast(1.6)", "contrast(3)"),
    "color": ("color(0.5)", "color(2)", "color(4)"),
    "jitter": ("jitter(0.2, 0.2, 0.2, 0.05)", "jitter(0.4, 0.4, 0.4, 0.1)", "jitter(0.8, 0.8, 0.8, 0.4)"),
    "lighting": ("lighting(0.1)", "lighting(0.5)", "lighting(1.5)"),
    "channel_permutation": ("channel_permutation()",) * 3,
    "posterize": ("posterize(5)", "posterize(3)", "posterize(1)"),
    "solarize": ("solarize(0.75)", "solarize(0.5)", "solarize(0.25)"),
    "solarize_add": ("solarize_add(0.1)", "solarize_add(0.25)", "solarize_add(0.43)"),
    "sharpness": ("sharpness(0)", "sharpness(3)", "sharpness(9)"),
    "blur": ("blur(1, p=1)", "blur(2, p=1)", "blur(6, p=1)"),
    "cutout": ("cutout(24)", "cutout(48)", "cutout(96)"),
    "erase": (
        "erase(p=1, scale=(0.05, 0.05))",
        "erase(p=1, scale=(0.15, 0.15), value=0.5)",
        "erase(p=1, scale=(0.33, 0.33), value='noise')",
    ),
    "soften": tuple(f"cutout({side}) | soften({k})" for side, k in ((24, 4), (48, 2), (96, 1))),
    "mixup": tuple(f"mixup({alpha}, partner='reversed')" for alpha in (0.2, 1, 32)),
    "cutmix": tuple(f"cutmix({beta}, partner='reversed')" for beta in (0.2, 1, 32)),
    "randaugment": ("randaugment(2, 5)", "randaugment(2, 14)", "randaugment(2, 30)"),
    "autoaugment": ("autoaugment('cifar10')", "autoaugment('imagenet')", "autoaugment('svhn')"),
    "trivialaugment": ("trivialaugment('standard')", "trivialaugment('wide')", "trivialaugment('wide')"),
    "uniformaugment": ("uniformaugment(1)", "uniformaugment(2)", "uniformaugment(4)"),
    "augmix": ("augmix(3)", "augmix(6)", "augmix(10)"),
    "one_of": (
        "one_of(brightness(0.7), grid_shuffle(2))",
        "one_of(brightness(1.5), grid_shuffle(3))",
        "one_of(brightness(2.5), grid_shuffle(4))",
    ),
    "flip": ("flip(1)",),
    "vflip": ("vflip(1)",),
    "grayscale": ("grayscale(1)",),
    "invert": ("invert(1)",),
    "autocontrast": ("contrast(0.4) | autocontrast(1)",),
    "equalize": ("contrast(0.4) | equalize(1)",),
}


def views_at() -> dict[str, str]:
    """What makes each view, by the view's name: jitter_weak, jitter_medium, jitter_strong, …, flip."""
    views = {}
    for op, calls in OPS_AT.items():
        for call, strength in zip(calls, STRENGTHS, strict=False):
            views[op if len(calls) == 1 else f"{op}_{strength}"] = call
    return views


def recipe_text() -> str:
    """A recipe with all views. What it would train is of no account."""
    lines = [f'  {name}: {{from: image, make: "{make}"}}' for name, make in views_at().items()]
    return "\n".join(
        [
            "title: every op at three strengths",
            f"seed: {SEED}",
            "data: {source: digits}",
            "views:",
            *lines,
            "branches: {net: {backbone: cresnet20, normalize: half}}",
            "relations: [cross_entropy(logits(flip))]",
            "train: {epochs: 1}",
            "",
        ]
    )


def sheet(images: list[Image.Image]) -> Image.Image:
    """Two ops in each band, beside the first image; the second is there to be mixed in."""
    fitted = [ImageOps.fit(image.convert("RGB"), (SIDE, SIDE)) for image in images]
    batch: Tensor = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in fitted])
    recipe = parse_recipe(recipe_text())
    return contact_sheet(recipe, batch, ["row 0", "row 1"], [0, 1], 0, rows=[0], columns=COLUMNS, titles=views_at())


def house() -> Image.Image:
    """By day: gradients, edges, fine texture, strong colours, and letters that tell left from right."""
    picture = gradient((70, 130, 225), (205, 228, 245))
    draw, random = ImageDraw.Draw(picture), np.random.default_rng(0)
    draw.ellipse((440, 30, 530, 120), "#ffd94a")
    for x, y, size in ((90, 70, 40), (130, 56, 54), (180, 74, 40), (330, 130, 26), (358, 122, 34)):
        draw.ellipse((x - size, y - size * 0.5, x + size, y + size * 0.5), "#f5f7fa")
    draw.polygon([(0, 380), (150, 200), (290, 380)], "#6b7d94")
    draw.polygon([(103, 257), (150, 200), (194, 257), (165, 245), (140, 262)], "#f2f4f7")
    draw.ellipse((-200, 330, 460, 800), "#4f8f3a")
    draw.ellipse((180, 360, 800, 800), "#77ad45")
    for x, y in random.uniform((0, 400), (576, 576), (300, 2)):
        shade = int(random.integers(-30, 30))
        draw.line((x, y, x + random.uniform(-4, 4), y - 14), (85 + shade, 140 + shade, 50 + shade // 2), 2)
    draw.rectangle((230, 300, 440, 470), "#e9dcc0")
    for y in range(300, 470, 14):
        draw.line((230, y, 440, y), "#cbbb98", 2)
    draw.polygon([(205, 304), (335, 200), (465, 304)], "#b23a2e")
    for step in range(1, 7):
        draw.line((335 - step * 20, 200 + step * 16, 335 + step * 20, 200 + step * 16), "#8a2a22", 3)
    draw.rectangle((300, 380, 350, 470), "#5a3a22")
    for x in (250, 380):
        draw.rectangle((x, 335, x + 42, 377), "#2c4a6e", "#ffffff", 4)
        draw.line((x + 21, 335, x + 21, 377), "#ffffff", 4)
    draw.rectangle((98, 350, 118, 480), "#6a4526")
    for x, y, size in ((108, 310, 66), (76, 340, 44), (142, 336, 46)):
        draw.ellipse((x - size, y - size, x + size, y + size), "#2e6b34")
    for x, y in random.uniform((60, 260), (160, 370), (26, 2)):
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), "#e0402f")
    draw.rectangle((462, 430, 560, 486), "#fff4c2", "#5a3a22", 5)
    draw.line((511, 486, 511, 540), "#5a3a22", 8)
    draw.text((474, 430), "FGR", "#1d1d1d", ImageFont.load_default(size=42))
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def boat() -> Image.Image:
    """By evening: another picture in every pixel."""
    picture = gradient((60, 20, 90), (255, 150, 60))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((220, 230, 360, 370), "#fff0a0")
    draw.rectangle((0, 330, 576, 576), "#1c3f66")
    for number in range(26):
        y, x = 340 + number * 9, (number * 211) % 480
        draw.line((x, y, x + 60 + number * 2, y), "#e59a5c" if abs(x - 250) < 120 else "#3a6a94", 4)
    draw.polygon([(150, 430), (440, 430), (390, 490), (200, 490)], "#7a1f1f")
    draw.line((290, 430, 290, 120), "#2a1a10", 8)
    draw.polygon([(298, 130), (298, 415), (450, 415)], "#fafafa")
    draw.polygon([(282, 160), (282, 415), (180, 415)], "#9fe0d0")
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def gradient(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    """From one colour to another, four times as large as it will be shown."""
    share = np.linspace(0, 1, 4 * SIDE)[:, None, None]
    levels = (1 - share) * np.array(top) + share * np.array(bottom)
    return Image.fromarray(np.broadcast_to(levels, (4 * SIDE, 4 * SIDE, 3)).round().astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws every op at three strengths.")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="at most two; by default drawn scenes")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("ops.png"))
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="also write the recipe")
    arguments = parser.parse_args()
    if len(arguments.images) > 2:
        parser.error("at most two images")
    given = [Image.open(path) for path in arguments.images]
    save_picture(sheet([*given, *[house(), boat()][len(given) :]]), arguments.out)
    if arguments.recipe:
        arguments.recipe.write_text(recipe_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
