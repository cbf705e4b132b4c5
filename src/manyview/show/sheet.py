"""Contact sheets: a row an image, a column a view, the drawn parameters in the caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from manyview.recipe.recipe import Recipe
from manyview.views.engine.render import Reduced, Source
from manyview.views.ops.op import Params
from manyview.views.ops.policy import POLICY_OPS
from manyview.views.plan import of_stream
from manyview.views.streams import STREAMS, seed_of
from manyview.views.view import View, draw_views

GAP, LINE, NAME = 10, 12, 16
PARTS = 3  # of a path that a caption shows
MOST = 2048  # pixels of a picture's side
Column = tuple[str, list[Tensor], list[list[str]]]  # title, images [C, h, w], a caption each
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

FACTORS = ("brightness", "contrast", "saturation", "hue")
NUMBERS = {  # what the numbers of a parameter are, and how each is written
    "box": ("top {}", "left {}", "height {}", "width {}"),
    "centre": ("y {}", "x {}"),
    "corners": tuple(f"{corner} y {{}} x {{}}" for corner in ("top left", "top right", "bottom right", "bottom left")),
    "degrees": ("{}°",),
    "k": ("quarter turns {}",),
    "partner": ("with row {}",),
    "shear": ("shear y {}°", "shear x {}°"),
    "shift": ("down {}", "right {}"),
    "sigma": ("sigma {} px",),
    "tangent": ("y {}", "x {}"),
}
MAGNITUDES = {  # the same for what a policy drew, by its unit: how it is written, and what is added to it
    "slope": ("slope {}", 0),
    "whole pixels to the right": ("{} px", 0),
    "whole pixels down": ("{} px", 0),
    "degrees anticlockwise": ("{}°", 0),
    "factor - 1": ("factor {}", 1),
    "bits kept": ("bits {}", 0),
    "threshold, 1 being 255 levels": ("threshold {}", 0),
    "added to levels under 128, 1 being 255 levels": ("amount {}", 0),
    "whole pixels of the square's side": ("side {} px", 0),
}


def contact_sheet(
    recipe: Recipe,
    images: Source,
    names: Sequence[str],
    index: Sequence[int],
    epoch: int,
    rows: Sequence[int] | None = None,
    columns: int | None = None,
    titles: Mapping[str, str] | None = None,
    stream: str | None = None,
) -> Image.Image:
    """Every view of every image as the network would see it in that epoch.

    images: uint8 [B, 3, H, W], or a list of unlike sizes. names, index: [B]; a name may be several lines. rows: which
    of them to show, by default all; the others are drawn nevertheless, for views that mix the images of a batch.
    Families show a column a member. columns: views that stand side by side, by default all; the others follow below,
    beside the images again. titles: what stands above a view instead of its name. stream: whose views to show, of
    images of that stream; by default those of all.
    """
    source, *drawn = drawn_columns(recipe, images, names, index, epoch, rows, titles, stream)
    width = columns or len(drawn)
    return compose(*([source, *drawn[first : first + width]] for first in range(0, len(drawn), width)))


def drawn_columns(
    recipe: Recipe,
    images: Source,
    names: Sequence[str],
    index: Sequence[int],
    epoch: int,
    rows: Sequence[int] | None = None,
    titles: Mapping[str, str] | None = None,
    stream: str | None = None,
) -> list[Column]:
    """What a contact sheet shows, the images as they were read first; arguments as there."""
    shown = range(len(index)) if rows is None else rows
    # what no relation reads may need the whole image
    plan = recipe.seen_views if isinstance(images, Reduced) else recipe.train_views
    pictures = images.images if isinstance(images, Reduced) else images
    views: dict[str, View] = {}
    for each in STREAMS if stream is None else (stream,):
        views |= draw_views(of_stream(plan, each), images, None, index, epoch, seed_of(recipe.seed, each))
    drawn: list[Column] = [("image", [pictures[row] for row in shown], [names[row].splitlines() for row in shown])]
    for name, view in views.items():
        for member in range(view.members):
            pixels = view.pixels[member :: view.members]
            captions = [caption(view, row * view.members + member) for row in shown]
            title = (titles or {}).get(name, name) if view.members == 1 else f"{name}.{member}"
            drawn.append((title, [pixels[row] for row in shown], captions))
    return drawn


def compose(*bands: Sequence[Column]) -> Image.Image:
    """Columns of (title, images [C, h, w], captions) as one picture, one band of them below the other.

    Images as large as the largest, or smaller by a whole factor, keep their pixels or show each as a square; those of
    more than `MOST` pixels a side are shown smaller.
    """
    font = ImageFont.load_default(size=10)
    largest = min(MOST, max(max(image.shape[-2:]) for columns in bands for _, images, _ in columns for image in images))
    cell = largest * max(1, round(144 / largest))
    words = [word for columns in bands for title, _, _ in columns for word in title.split(" ")]
    fonts = [ImageFont.load_default(size=size) for size in (13, 12, 11)]
    large = next((large for large in fonts if max(map(large.getlength, words)) <= cell), fonts[-1])
    parts = [_band(columns, cell, font, large) for columns in bands]
    sheet = Image.new("RGB", (max(part.width for part in parts), GAP + sum(part.height for part in parts)), "white")
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


def _band(columns: Sequence[Column], cell: int, font: Font, large: Font) -> Image.Image:
    """Columns beside one another: titles, and a row an image."""
    titles = [wrap([title], cell, large) for title, _, _ in columns]
    wrapped = [[wrap(lines, cell, font) for lines in captions] for _, _, captions in columns]
    rows = len(columns[0][1])
    heights = [cell + GAP + LINE * max(len(column[row]) for column in wrapped) for row in range(rows)]
    top = GAP + NAME * max(len(lines) for lines in titles)
    band = Image.new("RGB", (GAP + len(columns) * (cell + GAP), top + sum(heights)), "white")
    draw = ImageDraw.Draw(band)
    for position, (_, images, _) in enumerate(columns):
        x, y = GAP + position * (cell + GAP), top
        for number, line in enumerate(reversed(titles[position])):  # the last line right above the pictures
            draw.text((x, top - GAP // 2 - (number + 1) * NAME), line, "black", large)
        for row, image in enumerate(images):
            picture = to_pil(image)
            scale = cell / max(picture.size)
            method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC
            picture = picture.resize(
                (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), method
            )
            band.paste(picture, (x, y))
            for number, line in enumerate(wrapped[position][row]):
                draw.text((x, y + cell + 2 + number * LINE), line, "#444444", font)
            y += heights[row]
    return band


def short_path(name: str) -> str:
    """A file's name and its last two folders, as a caption has room for; what is no long path stays as it is."""
    parts = name.split("/")
    return name if len(parts) <= PARTS + 1 else "/".join(["…", *parts[-PARTS:]])


def caption(view: View, row: int) -> list[str]:
    """What was drawn for one image, an op a line; ops whose coin said no are left out, and ways not taken."""
    return _lines({op: {name: value[row] for name, value in params.items()} for op, params in view.params.items()})


def _lines(drawn: Mapping[str, Params]) -> list[str]:
    lines = []
    for op, values in drawn.items():
        if "way" in values:  # one of several
            lines += _lines(_taken(values))
        elif "magnitude" in values:
            lines += _policy_lines(op, values)
        elif bool(values.pop("applied", True)):
            lines.append(f"{op} {', '.join(_described(values))}".strip())
    return lines


def _taken(values: Params) -> dict[str, Params]:
    """What the ops of the way drew that `one_of` took: op -> its parameters."""
    taken: dict[str, Params] = {}
    for key, value in values.items():
        way, _, rest = key.partition(".")
        if rest and int(way) == int(values["way"]):
            op, _, name = rest.partition(".")
            taken.setdefault(op, {})[name] = value
    return taken


def _described(values: Params) -> list[str]:
    """The numbers of one op, each with what it is."""
    if "factors" in values:  # jitter's four, in their order, without those that change nothing
        four = list(zip(FACTORS, values["factors"].tolist(), (1, 1, 1, 0), strict=True))
        turns = [four[kind] for kind in values["order"].tolist()]
        return [f"{name} {_number(value)}" for name, value, neutral in turns if value != neutral]
    if "order" in values:
        order = values["order"].tolist()
        return ["".join("RGB"[kind] for kind in order) if len(order) == 3 else f"cells {' '.join(map(str, order))}"]
    described = []
    for name, value in values.items():
        numbers = [_number(number) for number in value.flatten().tolist()]
        forms = NUMBERS.get(name, (name + " {}" * len(numbers),))
        each = len(numbers) // len(forms)
        described += [form.format(*numbers[at * each : (at + 1) * each]) for at, form in enumerate(forms)]
    return described


def _policy_lines(name: str, values: Params) -> list[str]:
    """The ops that a policy drew and their magnitudes, one a line; for AugMix a line for each chain, with its share."""
    if "depth" not in values:
        return _policy_ops(values)
    lines = [f"{name} image {_number(1 - float(values['blend']))}"]
    for chain, depth in enumerate(values["depth"].tolist()):
        ops = _policy_ops({key: values[key][chain, :depth] for key in ("op", "magnitude")})
        lines.append(f"{_number(float(values['blend'] * values['weights'][chain]))} {', '.join(ops)}")
    return lines


def _policy_ops(values: Params) -> list[str]:
    names = list(POLICY_OPS)
    lines = []
    for turn, (code, magnitude) in enumerate(zip(values["op"].tolist(), values["magnitude"].tolist(), strict=True)):
        if "applied" in values and not values["applied"][turn]:
            continue
        op = POLICY_OPS[names[code]]
        form, added = MAGNITUDES.get(op.unit, ("", 0))
        line = f"{names[code]} {form.format(_number(magnitude + added))}".strip()
        if op.hides and "centre" in values:
            y, x = values["centre"][turn].tolist()
            line += f" at y {_number(y)}, x {_number(x)}"
        lines.append(line)
    return lines


def _number(value: float) -> str:
    """At most two decimals, none that say nothing."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def wrap(lines: Sequence[str], width: int, font: Font) -> list[str]:
    """Lines of text in lines of at most `width` pixels; no character is lost but the blanks between."""
    wrapped: list[str] = []
    for line in lines:
        current = ""
        for word in line.split(" "):
            longer = f"{current} {word}".strip()
            if current and font.getlength(longer) > width:
                wrapped.append(current)
                longer = word
            while font.getlength(longer) > width and len(longer) > 1:
                first = _parting(longer, width, font)
                wrapped.append(longer[:first])
                longer = longer[first:]
            current = longer
        wrapped.append(current)  # the last
    return wrapped


def _parting(word: str, width: int, font: Font) -> int:
    """Where a word too long for a line is parted: behind its last / or the like that still fits, else anywhere."""
    fits = max((n for n in range(1, len(word)) if font.getlength(word[:n]) <= width), default=1)
    joints = [n for n in range(fits // 2, fits + 1) if n and word[n - 1] in "/\\_-.,="]
    return joints[-1] if joints else fits


def to_pil(image: Tensor) -> Image.Image:
    """One image [C, h, w], uint8 or float in [0, 1]; of many channels the first three, of fewer the first as grey."""
    image = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    if image.is_floating_point():
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
