"""Contact sheets and replays: the pixels in the picture are the pixels of the views."""

import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from typer.testing import CliRunner

from commands import done, manyview, one_line, png
from manyview import parse_recipe
from manyview.cli import app
from manyview.data import open_splits
from manyview.errors import DataError, RunError
from manyview.show.pictures import save_picture
from manyview.show.sheet import GAP, NAME, caption, compose, contact_sheet, short_path, to_pil, wrap
from manyview.step import Step
from manyview.training.run import Run
from manyview.training.train import train
from manyview.views.ops import OPS
from manyview.views.ops.op import as_uint8
from manyview.views.ops.policy import POLICY_OPS
from manyview.views.view import View

RECIPE = """
title: to look at
seed: 6
data: {source: digits, limit: 40}
views:
  a: {from: image, make: "pad_crop(8, padding=2) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)"}
  strong: {from: a, make: "randaugment(2, 15)"}
  three: {from: image, make: "crop(8)", count: 3}
  r: {from: a, orbit: rotation}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(a), logits(strong))", "similarity(h(three.0), h(three.2))"]
train: {steps: 10, batch_size: 8}
"""
COLUMNS = ["image", "a", "strong", *(f"three.{t}" for t in range(3)), *(f"r.{t}" for t in range(4))]
ARGUMENTS = {
    "center_crop": "6",
    "channel_permutation": "",
    "crop": "8",
    "cutout": "4",
    "jitter": "0.4, 0.4, 0.4, 0.1",
    "one_of": "'flip(1)', 'grid_shuffle(2)'",
    "pad_crop": "8",
    "randaugment": "3, 9",
    "resize": "12",
}
BEHIND = {"soften": "crop"}  # ops that stand behind another


def cells(picture, column, heights, size, cell):
    """The pixels [3, size, size] of every row of a column, from the middle of each enlarged pixel; and that the
    enlargement is by repetition alone."""
    pixels = np.asarray(picture.convert("RGB"))
    x, y, found = GAP + column * (cell + GAP), NAME + GAP, []
    for height in heights:
        area = pixels[y : y + cell, x : x + cell]
        scale = cell // size
        small = area[scale // 2 :: scale, scale // 2 :: scale]
        assert np.array_equal(small.repeat(scale, axis=0).repeat(scale, axis=1), area)
        found.append(torch.from_numpy(small.copy()).permute(2, 0, 1))
        y += height
    return found


def numbers(line):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", line)]


def rows_of(picture, count, cell):
    """Heights of the rows, all alike where captions have as many lines: found from the picture's height."""
    total = picture.height - NAME - 2 * GAP
    assert total % count == 0
    return [total // count] * count


@pytest.mark.parametrize("epoch", [0, 3])
def test_cells_are_the_pixels_of_the_views(epoch):
    recipe = parse_recipe(RECIPE)
    images = torch.stack([open_splits(recipe.data, recipe.seed).train.read(i) for i in range(4)])
    index = [3, 1, 40, 7]
    views = Step(recipe, 10).views(images, index=index, epoch=epoch)
    expected = {"image": images}
    for name, view in views.items():
        for t in range(view.members):
            expected[name if view.members == 1 else f"{name}.{t}"] = as_uint8(view.pixels[t :: view.members])
    assert list(expected) == COLUMNS
    for row in range(4):  # a sheet a row, so that its place is known
        sheet = contact_sheet(recipe, images[row : row + 1], ["it"], index[row : row + 1], epoch)
        for column, name in enumerate(COLUMNS):
            (seen,) = cells(sheet, column, [0], 8, 144)
            assert torch.equal(seen, expected[name][row]), name


def test_rows_lie_below_one_another():
    recipe = parse_recipe(
        RECIPE.replace(" | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)", "").replace("randaugment(2, 15)", "vflip(1.0)")
    )
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    sheet = contact_sheet(recipe, images, list("vwxyz"), range(5), 0)
    views = Step(recipe, 10).views(images, index=range(5), epoch=0)
    heights = rows_of(sheet, 5, 144)
    assert all(map(torch.equal, cells(sheet, 0, heights, 8, 144), images))
    assert all(map(torch.equal, cells(sheet, 2, heights, 8, 144), as_uint8(views["strong"].pixels)))
    assert all(map(torch.equal, cells(sheet, 4, heights, 8, 144), as_uint8(views["three"].pixels[1::3])))


def test_replay_shows_what_training_saw(tmp_path):
    """The PNG of one image against the batch in which training rendered it."""
    from manyview.data.loader import Batches

    recipe = parse_recipe(RECIPE)
    train(recipe, tmp_path / "run", quiet=True)
    images = open_splits(recipe.data, recipe.seed).train
    batches = Batches(images, 8, 5, recipe.seed)
    step = Step(recipe, 10)
    for number in (0, 1, 7):
        batch = batches[number]
        views = step.views(batch.images, batch.labels, index=batch.index, epoch=batch.epoch)
        row = number % 8
        out = tmp_path / f"{number}.png"
        arguments = [
            "replay",
            str(tmp_path / "run"),
            "--index",
            str(int(batch.index[row])),
            "--epoch",
            str(batch.epoch),
        ]
        done = CliRunner().invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False)
        assert done.exit_code == 0
        assert f"index {int(batch.index[row])}, epoch {batch.epoch}" in done.output.replace("\n", " ")
        with Image.open(out) as picture:
            assert picture.format == "PNG"
            for column, name in enumerate(COLUMNS):
                base, _, member = name.partition(".")
                (seen,) = cells(picture, column, [0], 8, 144)
                if base == "image":
                    assert torch.equal(seen, batch.images[row])
                else:
                    view = views[base]
                    shown = as_uint8(view.pixels)[row * view.members + int(member or 0)]
                    assert torch.equal(seen, shown), name


MIXED = """
seed: 6
data: {source: digits, limit: 46}
views:
  a: {from: image, make: "flip(0.5) | mixup(1.0)"}
  b: {from: a, make: "cutmix(1.0, per='image')"}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(b))"]
train: {steps: 8, batch_size: 8, accumulate: 2}
"""


def test_replay_of_a_mixed_image_rebuilds_its_batch(tmp_path):
    from manyview.data.loader import Batches

    recipe = parse_recipe(MIXED)
    train(recipe, tmp_path / "run", quiet=True)
    images = open_splits(recipe.data, recipe.seed).train
    per_epoch = len(images) // 8
    batches = Batches(images, 8, per_epoch, recipe.seed, accumulate=2)
    step, out = Step(recipe, 10), tmp_path / "x.png"
    command = ["replay", str(tmp_path / "run"), "--out", str(out)]
    for number, row in ((0, 0), (3, 2), (2 * per_epoch, 3)):  # the last in the second epoch
        batch = batches[number]
        views = step.views(batch.images, batch.labels, index=batch.index, epoch=batch.epoch)
        asked = ["--index", str(int(batch.index[row])), "--epoch", str(batch.epoch)]
        done = CliRunner().invoke(app, [*command, *asked], catch_exceptions=False)
        assert done.exit_code == 0
        with Image.open(out) as picture:
            shown = [cells(picture, column, [0], 8, 144)[0] for column in range(3)]
        assert torch.equal(shown[0], batch.images[row])
        assert torch.equal(shown[1], as_uint8(views["a"].pixels)[row])
        assert torch.equal(shown[2], as_uint8(views["b"].pixels)[row])
    seen = {int(i) for number in range(2 * per_epoch) for i in batches[number].index}
    left_over = next(int(i) for i in images.index if int(i) not in seen)
    with pytest.raises(DataError, match=f"image {left_over} was left over in epoch 0: it filled no batch"):
        CliRunner().invoke(app, [*command, "--index", str(left_over), "--epoch", "0"], catch_exceptions=False)


def test_replay_of_a_run_on_two_processes_takes_the_part_that_one_of_them_mixed(tmp_path):
    """The run's files say how many there were; what each drew is what its own batches hold."""
    from manyview.data.loader import Batches

    recipe = parse_recipe(MIXED)
    train(recipe, tmp_path / "run", quiet=True)
    assert Run(tmp_path / "run").processes() == 1
    noted = tmp_path / "run" / "splits.json"
    noted.write_text(noted.read_text().replace('"processes": 1', '"processes": 2'))
    images = open_splits(recipe.data, recipe.seed).train
    second = Batches(images, 8, len(images) // 8, recipe.seed, accumulate=2, rank=1, world=2)
    batch, out = second[3], tmp_path / "x.png"
    assert len(batch.index) == 2
    views = Step(recipe, 10).views(batch.images, batch.labels, index=batch.index, epoch=batch.epoch)
    asked = ["--index", str(int(batch.index[1])), "--epoch", str(batch.epoch), "--out", str(out)]
    assert CliRunner().invoke(app, ["replay", str(tmp_path / "run"), *asked], catch_exceptions=False).exit_code == 0
    with Image.open(out) as picture:
        assert torch.equal(cells(picture, 2, [0], 8, 144)[0], as_uint8(views["b"].pixels)[1])


def test_a_batch_of_one_is_refused_before_anything_is_written(tmp_path):
    for changed in (("accumulate: 2", "accumulate: 8"), ("batch_size: 8, accumulate: 2", "batch_size: 1")):
        with pytest.raises(
            DataError, match=r"^mixup needs at least two images a batch; raise batch_size, or drop the op$"
        ):
            train(parse_recipe(MIXED.replace(*changed)), tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()


def test_replay_of_an_image_that_was_not_trained_on(tmp_path):
    recipe = parse_recipe(RECIPE)
    train(recipe, tmp_path / "run", quiet=True)
    used = set(open_splits(recipe.data, recipe.seed).train.index.tolist())
    other = next(i for i in range(1797) if i not in used)
    arguments = [
        "replay",
        str(tmp_path / "run"),
        "--index",
        str(other),
        "--epoch",
        "0",
        "--out",
        str(tmp_path / "x.png"),
    ]
    with pytest.raises(
        DataError, match=rf"^no training image has index {other}; this run trained on 40 images between"
    ):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "x.png").exists()


def test_a_sheet_needs_no_network():
    """Heads that fit only the data's classes, or weights to download, are no obstacle to looking at views."""
    text = RECIPE.replace("normalize: half", "normalize: half, logits: 'linear(h, 10)'")
    text = text.replace("backbone: cresnet20", "backbone: vit_huge_patch14_224")
    sheet = contact_sheet(parse_recipe(text), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["it"], [0], 0)
    assert sheet.width == GAP + len(COLUMNS) * (144 + GAP)


def test_views_command_takes_files_and_overrides(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    drawn = np.random.default_rng(0)
    for number, size in enumerate([(20, 30), (16, 16)]):
        Image.fromarray(drawn.integers(256, size=(*size, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    files = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    make = "views.a.make=crop(12) | flip(0.5)"
    arguments = ["views", str(tmp_path / "recipe.yaml"), *files, make, "--out", str(tmp_path / "sheet.png")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "drew 2 images" in done.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        cell = 30 * 5  # the largest image is 30 wide
        assert sheet.width == GAP + len(COLUMNS) * (cell + GAP)
    done = CliRunner().invoke(app, [*arguments, "--columns", "2"], catch_exceptions=False)
    assert done.exit_code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == GAP + 3 * (cell + GAP)


def test_views_command_without_images_shows_training_images(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    arguments = [
        "views",
        str(tmp_path / "recipe.yaml"),
        "--count",
        "1",
        "--epoch",
        "2",
        "--out",
        str(tmp_path / "s.png"),
    ]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    recipe = parse_recipe(RECIPE)
    images = open_splits(recipe.data, recipe.seed).train
    first = Step(recipe, 10).views(images.read(0)[None], index=[int(images.index[0])], epoch=2)
    with Image.open(tmp_path / "s.png") as sheet:
        assert torch.equal(cells(sheet, 0, [0], 8, 144)[0], images.read(0))
        assert torch.equal(cells(sheet, 2, [0], 8, 144)[0], as_uint8(first["strong"].pixels)[0])


@pytest.mark.parametrize("op", sorted(OPS))
@pytest.mark.parametrize("shape", ["", ", count: 2"])
def test_captions_of_every_op(op, shape):
    way = " | ".join(f"{each}({ARGUMENTS.get(each, '')})" for each in (BEHIND.get(op), op) if each)
    text = RECIPE.replace('make: "crop(8)", count: 3', f'make: "{way}"{shape}')
    text = text.replace('"similarity(h(three.0), h(three.2))"', '"similarity(h(a), h(strong))"')
    recipe = parse_recipe(text)
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    view = Step(recipe, 10).views(images, index=range(6), epoch=0)["three"]
    for row in range(6 * view.members):
        lines = [line for line in caption(view, row) if line.split()[0] != BEHIND.get(op)]
        applied = view.params[op].get("applied")
        if op == "augmix":  # the image's share, and a chain a line
            assert lines[0].split()[:2] == ["augmix", "image"]
            assert len(lines) == 1 + view.params[op]["depth"].shape[1]
        elif op == "one_of":  # the way that was taken
            assert [line.split()[0] for line in lines] == [("flip", "grid_shuffle")[int(view.params[op]["way"][row])]]
        elif "magnitude" in view.params[op]:  # a policy: an op a line
            assert len(lines) <= view.params[op]["op"][row].numel()
            assert {line.split()[0] for line in lines} <= set(POLICY_OPS)
        else:
            assert len(lines) == (applied is None or bool(applied[row]))
            assert all(line.split()[0] == op for line in lines)
        assert all("nan" not in line and "tensor" not in line for line in lines)
    assert contact_sheet(recipe, images, list("uvwxyz"), range(6), 0).height > 6 * 144


def test_captions_hold_the_drawn_numbers():
    recipe = parse_recipe(RECIPE)
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8)
    views = Step(recipe, 10).views(images, index=range(8), epoch=0)
    for row in range(8):
        box = views["a"].params["pad_crop"]["box"][row].tolist()
        lines = caption(views["a"], row)
        assert numbers(lines[0]) == pytest.approx(box, abs=0.0051)
        assert re.sub(r"-?[\d.]+", "_", lines[0]) == "pad_crop top _, left _, height _, width _"
        assert ("flip" in lines) == bool(views["a"].params["flip"]["applied"][row])
        assert len(caption(views["strong"], row)) == 2  # an op a line


def drawn(**params):
    """One image's parameters as a batch of one."""
    kinds = {name: None if name in KINDS else torch.float64 for name in params}
    return {name: torch.tensor(value, dtype=kinds[name])[None] for name, value in params.items()}


KINDS = {"applied", "bits", "depth", "k", "op", "order", "partner"}
COLOR, SOLARIZE, CUTOUT, ROTATE = (list(POLICY_OPS).index(op) for op in ("color", "solarize", "cutout", "rotate"))


@pytest.mark.parametrize(
    ("op", "params", "lines"),
    [
        ("flip", {"applied": False}, []),
        ("flip", {"applied": True}, ["flip"]),
        ("rotate90", {"k": 3}, ["rotate90 quarter turns 3"]),
        ("posterize_again", {"bits": 4, "applied": True}, ["posterize_again bits 4"]),
        ("rotate", {"degrees": -12.345, "applied": True}, ["rotate -12.35°"]),
        ("translate", {"shift": [0.1, -0.001], "applied": True}, ["translate down 0.1, right 0"]),
        ("jitter", {"factors": [1.2, 1, 0.5, 0], "order": [2, 3, 0, 1]}, ["jitter saturation 0.5, brightness 1.2"]),
        ("channel_permutation", {"order": [2, 0, 1]}, ["channel_permutation BRG"]),
        ("grid_shuffle", {"order": [3, 0, 1, 2]}, ["grid_shuffle cells 3 0 1 2"]),
        ("mixup", {"partner": 7, "lam": 0.25, "applied": True}, ["mixup with row 7, lam 0.25"]),
        ("lighting", {"alphas": [0.1, 0.2, -0.3]}, ["lighting alphas 0.1 0.2 -0.3"]),
        (
            "perspective",
            {"corners": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]},
            [
                "perspective top left y 0.1 x 0.2, top right y 0.3 x 0.4, bottom right y 0.5 x 0.6, "
                "bottom left y 0.7 x 0.8"
            ],
        ),
        (
            "uniformaugment",
            {
                "op": [COLOR, SOLARIZE, CUTOUT],
                "magnitude": [-0.25, 0.5, 12],
                "applied": [True, False, True],
                "centre": [[0, 0], [0, 0], [0.5, 0.75]],
            },
            ["color factor 0.75", "cutout side 12 px at y 0.5, x 0.75"],
        ),
        (
            "augmix",
            {
                "weights": [0.25, 0.75],
                "blend": 0.8,
                "depth": [2, 1],
                "op": [[ROTATE, COLOR], [SOLARIZE, 0]],
                "magnitude": [[30, 0.5], [1, 0]],
            },
            ["augmix image 0.2", "0.2 rotate 30°, color factor 1.5", "0.6 solarize threshold 1"],
        ),
    ],
)
def test_captions_say_what_the_numbers_are(op, params, lines):
    assert caption(View(torch.zeros(1, 3, 4, 4), {op: drawn(**params)}), 0) == lines


def test_sheets_go_on_below_beside_the_images_again():
    recipe = parse_recipe(RECIPE)
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    whole, folded = (contact_sheet(recipe, images, ["u", "v"], [0, 1], 0, [1], columns=n) for n in (None, 4))
    assert (whole.width, folded.width) == (GAP + len(COLUMNS) * (144 + GAP), GAP + 5 * (144 + GAP))
    expected = [cells(whole, column, [0], 8, 144)[0] for column in range(len(COLUMNS))]
    below = folded.height - whole.height  # the lower band: the longest captions stand in the upper
    shown = [cells(folded, column, [0], 8, 144)[0] for column in range(5)]
    assert all(map(torch.equal, shown, expected))
    assert below > 144
    lower = folded.crop((0, folded.height - GAP - below, folded.width, folded.height))
    shown = [cells(lower, column, [0], 8, 144)[0] for column in range(5)]
    assert all(map(torch.equal, shown, [expected[0], *expected[5:9]]))


def test_titles_stand_in_for_names():
    recipe = parse_recipe(RECIPE)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    plain, same, other = (
        np.asarray(contact_sheet(recipe, images, ["u"], [0], 0, titles=titles))
        for titles in (None, {"a": "a"}, {"a": "pad_crop(8)"})
    )
    assert np.array_equal(plain, same)
    left, right = GAP + (144 + GAP), GAP + 2 * (144 + GAP)
    assert (plain[:, left:right] != other[:, left:right]).any()
    assert np.array_equal(np.delete(plain, range(left, right), axis=1), np.delete(other, range(left, right), axis=1))


def test_images_larger_than_a_cell_and_of_unlike_sizes_are_drawn():
    sheet = compose(
        [("one", [torch.zeros(3, 300, 200, dtype=torch.uint8)], [["name"]]), ("two", [torch.ones(3, 7, 9)], [[]])]
    )
    pixels = np.asarray(sheet)
    assert sheet.width == GAP + 2 * (300 + GAP)
    assert (pixels[NAME + GAP : NAME + GAP + 300, GAP : GAP + 200] == 0).all()


def test_float_images_are_rounded_to_the_nearest_level():
    image = torch.tensor([0.0, 0.49 / 255, 0.51 / 255, 1.0, 1.2, -0.1]).view(1, 2, 3).repeat(3, 1, 1)
    assert np.asarray(to_pil(image))[:, :, 0].tolist() == [[0, 0, 1], [255, 255, 0]]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    save_picture(picture, tmp_path / "new" / "picture.png")
    with Image.open(tmp_path / "new" / "picture.png") as read:
        assert read.format == "PNG"
        assert np.array_equal(np.asarray(read), np.asarray(picture))
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match=r"^cannot write .*taken: "):
        save_picture(picture, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "taken"]


def test_run_recipe_is_that_of_the_sheet(tmp_path):
    train(parse_recipe(RECIPE), tmp_path / "run", quiet=True)
    assert Run(tmp_path / "run").recipe() == parse_recipe(RECIPE)


LONG = "/home/somebody/data/animals/train/n02123045_tabby_cat_domestic_shorthair/n02123045_00012345678901234567890.jpg"


@pytest.mark.parametrize(
    "text", [LONG, "x" * 200, f"{LONG} index 3, epoch 0", "crop top 0.12, left 0.3", "ÄÖ/日本語" * 20]
)
def test_captions_are_parted_where_they_are_too_long_and_lose_nothing(text):
    font = ImageFont.load_default(size=10)
    lines = wrap([text], 144, font)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= 144 for line in lines)


def test_what_a_caption_shows_of_a_path():
    assert short_path(LONG) == "…/" + "/".join(LONG.split("/")[-3:])
    assert short_path("train/cat/1.jpg") == "train/cat/1.jpg"
    assert short_path("digits row 7") == "digits row 7"


def test_replay_of_a_long_path_shows_index_and_epoch(tmp_path):
    """Under the image are the path's lines and then, on one of its own, which image and epoch it was."""
    root = tmp_path / ("a-folder-with-a-long-name/" * 6) / "photos"
    for label in ("cat", "dog"):
        for number in range(4):
            png(root / label / f"{number}.png", seed=number)
    small = (
        "train.epochs=1",
        "train.batch_size=2",
        "train.optimizer.lr=0.1",
        "train.schedule=constant()",
        "evaluate=[]",
        "data.val_fraction=0",
    )
    where = ("data.source=folder", f"data.root={root}")
    done("train", "quickstart", *small, *where, "--quiet", "--out", tmp_path / "run")
    printed = done("replay", tmp_path / "run", "--index", 3, "--epoch", 0, "--out", tmp_path / "seen.png")
    assert "3.png, index 3, epoch 0, seed 0: " in printed
    with Image.open(tmp_path / "seen.png") as sheet:
        pixels = np.asarray(sheet)[NAME + GAP + 144 :]
        inked = (pixels[:, GAP : GAP + 144] < 128).any(axis=(1, 2))
        assert not (pixels[:, GAP + 144 : 2 * GAP + 144] < 128).any(), "the caption keeps to its column"
    lines = int((np.diff(inked.astype(int)) == 1).sum() + inked[0])
    assert 2 <= lines <= 4, "the end of the path, and the index"


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP")]
)
def test_sheets_are_written_as_their_names_say(tmp_path, name, kind):
    assert "drew 1 image, epoch 0" in done("views", "quickstart", "--count", 1, "--out", tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind


@pytest.mark.parametrize("name", ["a.gif", "a.txt", "a"])
def test_a_sheet_whose_name_says_no_format_is_refused(tmp_path, name):
    for command in (["views", "quickstart"], ["replay", tmp_path, "--index", 0, "--epoch", 0]):
        message = one_line(*manyview(*command, "--out", tmp_path / name))
        assert message.startswith(f"--out: '{name}' does not say what to write; end it in .png, .jpg, .jpeg or .webp")
    assert list(tmp_path.iterdir()) == []
