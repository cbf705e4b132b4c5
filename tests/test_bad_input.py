"""Bad input of augmentations and images on the command line: one clear line, exit code 2, nothing half-written."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import contents, done, manyview, one_line, png
from manyview.show.sheet import GAP, NAME

FOLDER = (
    "data.source=folder", "data.val_fraction=0", "train.steps=1", "train.batch_size=16", "train.schedule=constant()",
    "evaluate=[]",
)  # fmt: skip
ADVICE = "; repair it, or leave such images out with data.on_bad_image=skip"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """root/train/{cat,dog}/0-7.png, 16x16: one batch."""
    root = tmp_path / "pictures"
    for label, name in enumerate(("cat", "dog")):
        for number in range(8):
            png(root / "train" / name / f"{number}.png", seed=number + 10 * label)
    return root


def refused(folder, *arguments) -> str:
    """The message of a refused command, under which nothing in the folder changed."""
    before = contents(folder)
    message = one_line(*manyview(*arguments))
    assert contents(folder) == before, "a refused command wrote something"
    return message


def training(pictures, *overrides, out="run"):
    return (
        "train",
        "quickstart",
        *FOLDER,
        f"data.root={pictures}",
        *overrides,
        "--quiet",
        "--out",
        pictures.parent / out,
    )


def taken_back(folder) -> None:
    """A run that was stopped by an image before its first checkpoint leaves nothing, so it can be begun otherwise."""
    assert not folder.exists() or not [*folder.iterdir()]


# ------------------------------------------------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            "autoaugment('cifar11')",
            "unknown policy 'cifar11'; did you mean 'cifar10'? policies: cifar10, imagenet, svhn",
        ),
        ("randaugment(2, 9, ops='gpu')", "unknown op set 'gpu'; did you mean 'tpu'? op sets: dssl, torchvision, tpu"),
        ("trivialaugment('narrow')", "unknown space 'narrow'; spaces: standard, wide"),
        ("randaugment(2, 31)", "m must be at most 30, got 31"),
        ("mixup(-1)", "alpha must be a number above 0, got -1"),
        ("mixup(0)", "alpha must be a number above 0, got 0"),
        ("mixup(alpha=nan)", "alpha must be a number above 0, got nan"),
        ("mixup(p=1.5)", "p must be a probability in [0, 1], got 1.5"),
        ("cutmix(0)", "beta must be a number above 0, got 0"),
        ("cutmix(p=-0.1)", "p must be a probability in [0, 1], got -0.1"),
        ("cutmix(partner='next')", "partner must be 'random' or 'reversed', got 'next'"),
        ("cutout(8, fill=2)", "fill must be a number in [0, 1], got 2"),
        ("crop(16, scale=(0.2, 1.2))", "scale must be a number or a pair (low, high) within [0, 1], got (0.2, 1.2)"),
        ("augmix(alpha=0)", "alpha must be a positive number, got 0"),
    ],
)
def test_arguments_that_cannot_be_meant(tmp_path, make, message):
    override = f"views.a.make={make}"
    for command in (["plan"], ["train", "--out", tmp_path / "out"], ["views", "--out", tmp_path / "out.png"]):
        shown = refused(tmp_path, command[0], "quickstart", override, *command[1:])
        assert shown == f"recipe quickstart: views.a.make: {make}: {message}"


@pytest.mark.parametrize("op", ["mixup(0.2)", "cutmix(1.0)", "cutmix(1.0, per='image')"])
def test_a_batch_of_one_cannot_be_mixed(tmp_path, pictures, op):
    message = f"{op.partition('(')[0]} needs at least two images a batch; raise batch_size, or drop the op"
    make = f"views.a.make=crop(16) | {op}"
    assert refused(tmp_path, *training(pictures, make, "train.batch_size=1")) == message
    assert refused(tmp_path, *training(pictures, make, "train.accumulate=16")) == message
    image = pictures / "train" / "cat" / "0.png"
    assert refused(tmp_path, "views", "quickstart", image, make, "--out", tmp_path / "views.png") == message


@pytest.mark.parametrize("name", ["jitter(0.4)", "grayscale", "randaugment(2, 9)", "augmix"])
def test_ops_on_colours_refuse_grey_images(tmp_path, pictures, name):
    for path in pictures.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    more = ("data.channels=1", f"views.a.make=crop(16) | {name}")
    for command in (training(pictures, *more), viewing(pictures, *more)):
        assert "needs RGB images with 3 channels, got 1" in refused(tmp_path, *command)


def viewing(pictures, *overrides):
    more = (*FOLDER, f"data.root={pictures}", *overrides)
    return ("views", "quickstart", *more, "--count", 16, "--out", pictures.parent / "views.png")


# ---------------------------------------------------------------------------------------------- too small for its crop


CROPS = {"pad_crop(16, padding=2)": "pad_crop to 16x16", "center_crop(14)": "center_crop to 14x14",
         "pad_crop(12, padding=7, mode='reflect')": "a reflected border of 7"}  # fmt: skip


@pytest.mark.parametrize("make", CROPS)
def test_the_first_image_is_smaller_than_its_crop(tmp_path, pictures, make):
    png(pictures / "train" / "cat" / "0.png", (6, 7))
    message = f"image 0 of the batch is 6x7, too small for {CROPS[make]}; resize it first"
    for command in (training(pictures, f"views.a.make={make}"), viewing(pictures, f"views.a.make={make}")):
        assert refused(tmp_path, *command) == message


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make", CROPS)
def test_a_later_image_is_smaller_than_its_crop(pictures, make, workers):
    path = png(pictures / "train" / "dog" / "6.png", (6, 7))
    command = training(pictures, f"views.a.make={make}", f"data.workers={workers}", "views.test.make=resize((16, 16))")
    assert one_line(*manyview(*command)) == f"{path} is 6x7, too small for {CROPS[make]}; resize it first"
    taken_back(pictures.parent / "run")
    png(path, seed=16)
    done(*command, "--resume")
    assert (pictures.parent / "run" / "result.json").is_file()


# ----------------------------------------------------------------------------------------------- files that are no use


def without_pixels(path: Path) -> Path:
    """A PNG 16 wide and 0 high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 16, 0, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def empty_array(path: Path) -> Path:
    np.save(path.with_suffix(".npy"), np.zeros((0, 16, 3), np.uint8))
    path.unlink()
    return path.with_suffix(".npy")


def four_channels(path: Path) -> Path:
    Image.open(path).convert("RGBA").save(path)
    return path


def cut_jpeg(path: Path) -> Path:
    Image.open(path).resize((64, 64)).save(path.with_suffix(".jpg"))
    path.unlink()
    path = path.with_suffix(".jpg")
    path.write_bytes(path.read_bytes()[:900])
    return path


BAD = {
    "no pixels": (without_pixels, [], "not an image in a format that Pillow reads"),
    "no rows": (empty_array, ["data.channels=3"], "the image has no pixels (it is 0 high and 16 wide)"),
    "channels": (four_channels, ["data.channels=3"], "4 channels, but data.channels is 3"),
    "truncated": (cut_jpeg, [], "image file is truncated"),
    "truncated, reduced": (cut_jpeg, ["data.reduced=true"], "image file is truncated"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_use_is_named(tmp_path, pictures, kind, workers):
    spoil, more, message = BAD[kind]
    path = spoil(pictures / "train" / "cat" / "3.png")
    more = (*more, "views.a.make=crop(16)")
    shown = refused(tmp_path, *viewing(pictures, *more))
    assert shown.startswith(f"{path}: {message}")
    assert shown.endswith(ADVICE)
    command = training(pictures, *more, f"data.workers={workers}")
    assert one_line(*manyview(*command)) == shown
    taken_back(tmp_path / "run")
    skipping = training(pictures, *more, f"data.workers={workers}", "data.on_bad_image=skip", out="skipped")
    assert done(*skipping) == ""
    (line,) = json.loads((tmp_path / "skipped" / "result.json").read_text())["skipped_images"]
    assert line == shown.removesuffix(ADVICE)


def test_all_images_have_another_channel_count(tmp_path, pictures):
    first = pictures / "train" / "cat" / "0.png"
    for command in (training(pictures, "data.channels=1"), viewing(pictures, "data.channels=1")):
        assert refused(tmp_path, *command) == f"{first}: 3 channels, but data.channels is 1"


# ------------------------------------------------------------------------------------- what looks bad, and is read well


def animation(folder: Path) -> tuple[Path, Image.Image]:
    frames = [Image.open(png(folder / f"frame{n}.png", seed=50 + n)).convert("P") for n in range(3)]
    path = folder / "3.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    for n in range(3):
        (folder / f"frame{n}.png").unlink()
    return path, frames[0].convert("RGB")


def cmyk(folder: Path) -> tuple[Path, Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    path = folder / "3.jpg"
    Image.fromarray(pixels, "CMYK").save(path, quality=95)
    return path, Image.open(path).convert("RGB")


@pytest.mark.parametrize("more", [[], ["data.channels=3"]], ids=["rgb", "stored"])
@pytest.mark.parametrize("make", [animation, cmyk])
def test_animations_give_their_first_frame_and_cmyk_is_converted(tmp_path, pictures, make, more):
    (pictures / "train" / "cat" / "3.png").unlink()
    path, expected = make(pictures / "train" / "cat")
    out = tmp_path / "views.png"
    done("views", "quickstart", path, *more, "--out", out)
    cell = 144  # sixteen pixels, nine times
    shown = np.asarray(Image.open(out))[NAME + GAP :, GAP:][:cell:9, :cell:9]
    assert np.array_equal(shown, np.asarray(expected))
    assert done(*training(pictures, *more)) == ""
    assert json.loads((tmp_path / "run" / "result.json").read_text())["skipped_images"] == []
