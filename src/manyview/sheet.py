"""Contact sheets: a row an image, a column a view, the drawn parameters in the caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from manyview.augment.policy import POLICY_OPS
from manyview.engine.render import Reduced, Source
from manyview.files import write_bytes
from manyview.recipe import Recipe
from manyview.views import View, draw_views

GAP, LINE, NAME = 10, 12, 16


def contact_sheet(
    recipe: Recipe,
    images: Source,
    names: Sequence[str],
    index: Sequence[int],
    epoch: int,
    rows: Sequence[int] | None = None,
) -> Image.Image:
    """Every view of every image as the network would see it in that epoch.

    images: uint8 [B, 3, H, W], or a list of unlike sizes. names, index: [B]. rows: which of them to show, by default
    all; the others are drawn nevertheless, for views that mix the images of a batch. Families show a column a member.
    """
    shown = range(len(index)) if rows is None else rows
    # what no relation reads may need the whole image
    plan = recipe.seen_views if isinstance(images, Reduced) else recipe.train_views
    pictures = images.images if isinstance(images, Reduced) else images
    views = draw_views(plan, images, None, index, epoch, recipe.seed)
    columns: list[tuple[str, list[Tensor], list[list[str]]]] = [
        ("image", [pictures[row] for row in shown], [[names[row]] for row in shown])
    ]
    for name, view in views.items():
        for member in range(view.members):
            pixels = view.pixels[member :: view.members]
            captions = [caption(view, row * view.members + member) for row in shown]
            title = name if view.members == 1 else f"{name}.{member}"
            columns.append((title, [pixels[row] for row in shown], captions))
    return compose(columns)


def compose(columns: Sequence[tuple[str, list[Tensor], list[list[str]]]]) -> Image.Image:
    """Columns of (title, images [C, h, w], captions) as one picture; small images are enlarged by whole factors."""
    font = ImageFont.load_default(size=10)
    largest = max(max(image.shape[-2:]) for _, images, _ in columns for image in images)
    cell = largest * max(1, round(144 / largest))
    wrapped = [[_wrap(lines, cell, font) for lines in captions] for _, _, captions in columns]
    rows = len(columns[0][1])
    heights = [cell + GAP + LINE * max(len(column[row]) for column in wrapped) for row in range(rows)]
    sheet = Image.new("RGB", (GAP + len(columns) * (cell + GAP), NAME + GAP + sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for position, (title, images, _) in enumerate(columns):
        x, y = GAP + position * (cell + GAP), NAME + GAP
        draw.text((x, GAP // 2), title, "black", ImageFont.load_default(size=13))
        for row, image in enumerate(images):
            picture = to_pil(image)
            scale = cell / max(picture.size)
            method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC
            picture = picture.resize(
                (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), method
            )
            sheet.paste(picture, (x, y))
            for number, line in enumerate(wrapped[position][row]):
                draw.text((x, y + cell + 2 + number * LINE), line, "#444444", font)
            y += heights[row]
    return sheet


def caption(view: View, row: int) -> list[str]:
    """What was drawn for one image, an op a line; ops whose coin said no are left out."""
    lines = []
    for op, params in view.params.items():
        values = {name: value[row] for name, value in params.items()}
        if "magnitude" in values:
            lines += _policy_lines(values)
            continue
        if "applied" in values and not bool(values.pop("applied")):
            continue
        shown = " ".join(f"{_number(v)}" for v in values.values())
        lines.append(f"{op} {shown}".strip())
    return lines


def _policy_lines(values: Mapping[str, Tensor]) -> list[str]:
    """The ops that a policy drew and their magnitudes, one a line."""
    names = list(POLICY_OPS)
    applied = values.get("applied", torch.ones_like(values["op"], dtype=torch.bool))
    if "depth" in values:  # the chains of AugMix, which end before the deepest
        applied = torch.arange(values["op"].shape[-1]) < values["depth"][:, None]
    drawn = zip(*(value.flatten().tolist() for value in (values["op"], values["magnitude"], applied)), strict=True)
    return [f"{names[code]} {value:.3g}".removesuffix(" 0") for code, value, on in drawn if on]


def _number(value: Tensor) -> str:
    return " ".join(f"{float(v):.2f}".rstrip("0").rstrip(".") for v in value.flatten())


def _wrap(lines: Sequence[str], width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    wrapped: list[str] = []
    for line in lines:
        current = ""
        for word in line.split(" "):
            longer = f"{current} {word}".strip()
            if current and font.getlength(longer) > width:
                wrapped.append(current)
                longer = word
            current = longer
        while font.getlength(current) > width and len(current) > 4:
            current = "…" + current[2:]
        wrapped.append(current)
    return wrapped


def to_pil(image: Tensor) -> Image.Image:
    """One image [C, h, w], uint8 or float in [0, 1]; of many channels the first three, of fewer the first as grey."""
    image = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    if image.is_floating_point():
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))


def save_png(picture: Image.Image, path: Path) -> None:
    """Writes the picture whole or not at all, whatever the file's ending."""
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
