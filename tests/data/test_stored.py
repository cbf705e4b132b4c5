"""Images as they are stored: exact values from files written here byte by byte, and every line on what does not fit."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image

from manyview.data import ArrayImages, BadImage, FolderImages, Stored, Subset, decode, open_splits, preload
from manyview.errors import DataError, RecipeError
from manyview.judge.export import export_timm
from manyview.judge.predict import predict_files
from manyview.judge.subject import open_model
from manyview.load import parse_recipe
from manyview.recipe.settings import Data
from manyview.show.sheet import to_pil
from manyview.step import Step
from manyview.training.run import Run
from manyview.training.train import train


def noise(dtype, *shape, seed=0):
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.random(shape).astype(dtype)
    return generator.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def expected(pixels):
    """What an array [H, W, C] must be read as, by the rule's own words."""
    if pixels.dtype == np.uint16:
        pixels = (pixels.astype(np.float64) / 65535).astype(np.float32)
    elif pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
    return pixels.transpose(2, 0, 1)


def png(pixels):
    """A PNG of an array [H, W, 1 to 4], uint8 or uint16, from the format's definition: no filter, big-endian."""
    height, width, channels = pixels.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels, order="<", planar=False, orientation=1):
    """A baseline TIFF of an array [H, W, C], uint8, uint16 or float32, from the format's definition: one strip each."""
    height, width, channels = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder(order))
    strips = [data[:, :, c].tobytes() for c in range(channels)] if planar else [data.tobytes()]
    extra = b"".join(strips)
    offsets = [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    kind = 3 if pixels.dtype.kind == "f" else 1
    tags = [  # tag, type (3: short, 4: long), values
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [8 * pixels.itemsize] * channels),
        (259, 3, [1]),
        (262, 3, [1]),
        (273, 4, offsets),
        (274, 3, [orientation]),
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]),
        (284, 3, [2 if planar else 1]),
        (338, 3, [0] * (channels - 1)),
        (339, 3, [kind] * channels),
    ]
    tags = [tag for tag in tags if tag[2]]
    entries = b""
    for tag, width_of, values in tags:
        packed = struct.pack(f"{order}{len(values)}{'HI'[width_of - 3]}", *values)
        if len(packed) > 4:
            at = 8 + len(extra)
            extra += packed
            packed = struct.pack(f"{order}I", at)
        entries += struct.pack(f"{order}HHI", tag, width_of, len(values)) + packed.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HI", 42, 8 + len(extra))
    return head + extra + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


def npy(pixels):
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=True)
    return buffer.getvalue()


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def equal(content, pixels):
    read = decode(content, "x", Stored(pixels.shape[2]))
    assert read.dtype == (torch.uint8 if pixels.dtype == np.uint8 else torch.float32)
    np.testing.assert_array_equal(read.numpy(), expected(pixels))
    read += read  # writable: the caller's own


# ---------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_channels_and_depth(dtype, channels):
    pixels = noise(dtype, 9, 7, channels)
    pixels[0, 0], pixels[0, 1] = 0, np.iinfo(dtype).max
    equal(png(pixels), pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
def test_tiff_keeps_channels_and_depth(dtype, channels, order, planar):
    pixels = noise(dtype, 9, 7, channels)
    equal(tiff(pixels, order, planar and channels > 1), pixels)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits"])
def test_tiff_is_decompressed(compression):
    pixels = noise(np.uint16, 33, 21, 3)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", compression=compression)
    equal(buffer.getvalue(), pixels)


def test_tiff_channels_of_imagej_are_channels_and_of_pages_the_first_is_taken():
    pixels = noise(np.uint16, 9, 7, 5)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"})
    equal(buffer.getvalue(), pixels)
    pages = encoded(Image.fromarray(pixels[..., 0]), "TIFF", save_all=True,
                    append_images=[Image.fromarray(pixels[..., 1])])  # fmt: skip
    equal(pages, pixels[..., :1])


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 4, 16])
def test_arrays_keep_channels_and_depth(dtype, channels):
    pixels = noise(np.dtype(dtype).newbyteorder("="), 5, 6, channels)
    equal(npy(pixels.astype(dtype)), pixels)
    equal(npy(np.asfortranarray(pixels.astype(dtype))), pixels)


def test_an_array_without_channels_has_one():
    pixels = noise(np.uint16, 5, 6)
    equal(npy(pixels), pixels[..., None])


def test_what_pillow_reads_keeps_its_channels():
    grey, color = noise(np.uint8, 5, 6), noise(np.uint8, 5, 6, 3)
    for format, options in (("BMP", {}), ("WEBP", {"lossless": True}), ("PPM", {})):
        equal(encoded(Image.fromarray(color), format, **options), color)
    equal(encoded(Image.fromarray(grey), "BMP"), grey[..., None])
    jpeg = decode(encoded(Image.fromarray(grey), "JPEG"), "x", Stored(1))
    assert jpeg.shape == (1, 5, 6)
    assert torch.equal(jpeg.expand(3, -1, -1), decode(encoded(Image.fromarray(grey), "JPEG"), "x"))
    bits = Image.fromarray(grey > 127)
    equal(encoded(bits), np.where(grey > 127, 255, 0).astype(np.uint8)[..., None])


def test_palettes_and_cmyk_become_rgb():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    assert decode(encoded(image), "x", Stored(3))[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    clear = decode(encoded(image, transparency=0), "x", Stored(4))
    assert clear[:, 0].T.tolist() == [[10, 20, 30, 0], [40, 50, 60, 255]]
    cmyk = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    assert torch.equal(decode(cmyk, "x", Stored(3)), decode(cmyk, "x"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_at_every_depth(orientation):
    upright = noise(np.uint16, 5, 7, 1)
    stored = {  # the inverse of what a viewer must do
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    equal(tiff(np.ascontiguousarray(stored), orientation=orientation), upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    equal(encoded(Image.fromarray(np.ascontiguousarray(stored[..., 0])), exif=exif), upright)


# ---------------------------------------------------------------------------------------------------------- bad images


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.9])
@pytest.mark.parametrize(
    "content",
    [
        png(noise(np.uint16, 64, 64, 3)),
        tiff(noise(np.uint16, 64, 64, 5)),
        npy(noise(np.uint16, 64, 64, 5)),
    ],
    ids=["png", "tiff", "npy"],
)
def test_truncated_files_are_bad_and_never_half_grey(content, cut):
    channels = 3 if content.startswith(b"\x89PNG") else 5
    with pytest.raises(BadImage, match=r"^train row 17: \S.*$") as caught:
        decode(content[: int(len(content) * cut)], "train row 17", Stored(channels))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(noise(np.uint8, 2, 2, 3)), "x: 3 channels, but data.channels is 5"),
        (npy(noise(np.uint8, 2, 2)), "x: 1 channel, but data.channels is 5"),
        (npy(noise(np.uint8, 0, 3)), "x: the image has no pixels (it is 0 high and 3 wide)"),
        (tiff(np.full((2, 2, 5), 1.5, np.float32)), "x: float pixels from 1.5 to 1.5; they must lie in [0, 1]"),
        (npy(np.full((2, 2, 5), np.nan)), "x: float pixels from nan to nan; they must lie in [0, 1]"),
        (npy(np.zeros((2, 2, 5), np.int32)), "x: int32 pixels; uint8, uint16 and floats in [0, 1] are read"),
        (npy(np.zeros((2, 2, 5), bool)), "x: bool pixels; uint8, uint16 and floats in [0, 1] are read"),
        (
            npy(np.zeros((5, 64, 64), np.uint8)),
            "x: an array of shape (5, 64, 64); [H, W] or [H, W, 1 to 16 channels] is read",
        ),
        (npy(np.zeros(9, np.uint8)), "x: an array of shape (9,); [H, W] or [H, W, 1 to 16 channels] is read"),
        (b"<html>404</html>", "x: not an image in a format that Pillow reads"),
        (b"", "x: the file is empty (0 bytes)"),
    ],
)
def test_what_cannot_be_meant_is_one_line(content, message):
    with pytest.raises(BadImage) as caught:
        decode(content, "x", Stored(5))
    assert str(caught.value) == message


def test_pickled_arrays_are_refused():
    with pytest.raises(BadImage, match=r"^x: it holds Python objects, which may be code$"):
        decode(npy(np.array([[{}]], dtype=object)), "x", Stored(1))


def test_images_without_pixels_are_bad_as_rgb_too():
    for content in (png(noise(np.uint8, 0, 3, 3)), png(noise(np.uint8, 3, 0, 3)), tiff(noise(np.uint8, 0, 3, 1))):
        with pytest.raises(BadImage, match=r"^x: \S.*$") as caught:
            decode(content, "x")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tifffile", tiff(noise(np.uint8, 2, 2, 5))), ("imagecodecs", png(noise(np.uint16, 2, 2, 3)))],
)
def test_a_missing_library_is_named(name, content, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=rf"stored need {name}: pip install 'manyview\[stored\]'$") as caught:
        decode(content, "x", Stored(5))
    assert not isinstance(caught.value, BadImage)  # which a run may skip


# ------------------------------------------------------------------------------------------------------------ sources


def spec(source, root=None, **choice):
    return Data(source=source, root=None if root is None else str(root), **choice)


@pytest.fixture
def five(tmp_path):
    """Two classes of 5-channel 16-bit images, as TIFF and as arrays."""
    for number in range(12):
        pixels = noise(np.uint16, 8, 9, 5, seed=number)
        path = tmp_path / "ab"[number % 2] / f"{number:02}"
        path.parent.mkdir(exist_ok=True)
        if number % 3:
            path.with_suffix(".tif").write_bytes(tiff(pixels))
        else:
            path.with_suffix(".npy").write_bytes(npy(pixels))
    return tmp_path


def test_a_folder_of_many_channels(five):
    splits = open_splits(spec("folder", five, channels=5, val_fraction=0), 0)
    assert isinstance(splits.train, FolderImages)
    assert len(splits.train) == 12
    assert splits.train.channels == 5
    assert splits.train.stored == Stored(5, torch.float32)
    for position in range(12):
        number = int(splits.train.name(position)[-6:-4])
        np.testing.assert_array_equal(
            splits.train.read(position).numpy(), expected(noise(np.uint16, 8, 9, 5, seed=number))
        )
    assert splits.train.size_of(0) is None


def test_arrays_are_no_images_where_all_become_rgb(five):
    names = [open_splits(spec("folder", five), 0).train.name(p) for p in range(4)]
    assert all(name.endswith(".tif") for name in names)


def test_one_depth_for_all(five):
    train = open_splits(spec("folder", five, channels=5, val_fraction=0), 0).train
    (five / "b" / "11.tif").write_bytes(tiff(noise(np.uint8, 8, 9, 5)))
    with pytest.raises(BadImage, match=r"11\.tif: 8-bit, but the data set's first image is deeper than 8-bit$"):
        train.read(11)


def test_the_wrong_count_of_channels_is_seen_when_data_are_opened(five):
    with pytest.raises(DataError, match=r"00\.npy: 5 channels, but data\.channels is 4$"):
        open_splits(spec("folder", five, channels=4), 0)
    with pytest.raises(DataError, match=r"^train has images of 1 channel, but data\.channels is 2$"):
        open_splits(spec("digits", channels=2), 0)


def test_one_bad_first_image_does_not_hide_the_depth(five):
    (five / "a" / "00.npy").write_bytes(b"")
    assert open_splits(spec("folder", five, channels=5), 0).train.images.stored == Stored(5, torch.float32)


def test_digits_are_one_channel():
    rgb, grey = (open_splits(spec("digits", channels=channels), 0).train for channels in (None, 1))
    assert grey.channels == 1
    assert rgb.channels == 3
    assert torch.equal(grey.read(5), rgb.read(5)[:1])


def test_parquet_of_16_bit_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    pixels = [noise(np.uint16, 6, 6, 3, seed=seed) for seed in range(4)]
    rows = {"image": [{"bytes": png(image), "path": None} for image in pixels], "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    train = open_splits(spec("hf", tmp_path, channels=3, val_fraction=0), 0).train
    for position, image in enumerate(pixels):
        np.testing.assert_array_equal(train.read(position).numpy(), expected(image))


# ------------------------------------------------------------------------------------------------------------- memory


def test_16_bits_stay_16_bits_in_memory(five):
    train = open_splits(spec("folder", five, channels=5, val_fraction=0), 0).train
    loaded = preload(train, limit_bytes=12 * 8 * 9 * 5 * 2)
    assert isinstance(loaded, ArrayImages)
    assert loaded.pixels.dtype == torch.uint16
    assert loaded.channels == 5
    for position in range(12):
        assert torch.equal(loaded.read(position), train.read(position))
    assert preload(train, limit_bytes=12 * 8 * 9 * 5 * 2 - 1) is train


def test_floats_among_16_bits_stay_what_they_were(five):
    (five / "b" / "11.tif").write_bytes(tiff(noise(np.float32, 8, 9, 5)))
    train = open_splits(spec("folder", five, channels=5, val_fraction=0), 0).train
    loaded = preload(train, limit_bytes=12 * 8 * 9 * 5 * 4)
    assert loaded.pixels.dtype == torch.float32
    for position in range(12):
        assert torch.equal(loaded.read(position), train.read(position))
    assert preload(train, limit_bytes=12 * 8 * 9 * 5 * 4 - 1) is train


def test_every_16_bit_value_comes_back():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    read = decode(npy(values), "x", Stored(1))
    images = ArrayImages(torch.from_numpy(values).permute(2, 0, 1)[None], np.zeros(1, int), np.zeros(1, int), "x")
    assert torch.equal(images.read(0), read)
    np.testing.assert_array_equal(read.numpy(), expected(values))
    part = Subset(images, np.zeros(1, int))
    assert part.channels == 1
    assert torch.equal((part.read(0) * 65535).round().to(torch.uint16), images.pixels[0])


# ------------------------------------------------------------------------------------------------------------- network


RECIPE = """
data: {{source: folder, root: {root}, channels: {channels}, val_fraction: 0}}
views: {{a: {{from: image, make: "flip(0.5)"}}}}
branches: {{net: {{backbone: {backbone}{normalize}}}}}
relations: [cross_entropy(logits(a))]
train: {{steps: 2, batch_size: 4, optimizer: 'sgd(lr=0.01)'}}
"""


def recipe(root, channels=5, backbone="resnet18(small=True)", normalize=""):
    return parse_recipe(RECIPE.format(root=root, channels=channels, backbone=backbone, normalize=normalize))


@pytest.mark.parametrize("backbone", ["resnet18(small=True)", "cresnet20", "wrn28_2"])
def test_a_network_takes_as_many_channels_as_the_data_have(five, backbone):
    made = recipe(five, backbone=backbone)
    splits = open_splits(made.data, 0)
    step = Step(made, 2)
    assert step.main.mean.flatten().tolist() == step.main.std.flatten().tolist() == [0.5] * 5
    images = torch.stack([splits.train.read(position) for position in range(4)])
    out = step(images, torch.from_numpy(splits.train.labels[:4]), index=range(4), epoch=0)
    out["loss"].backward()
    first = next(iter(step.main.backbone.parameters()))
    assert first.shape[1] == 5
    assert (first.grad.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_normalisation_by_channel(five):
    made = recipe(five, normalize=", normalize: [[0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 3, 4, 5]]")
    branch = Step(made, 2).main
    torch.testing.assert_close(branch.mean.flatten(), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert branch.std.flatten().tolist() == [1, 2, 3, 4, 5]
    assert Step(recipe(five, normalize=", normalize: none"), 2).main.std.flatten().tolist() == [1] * 5
    with pytest.raises(
        RecipeError,
        match=r"normalize: imagenet is of 3 channels, and images have 5 .*; write .*normalize=half, or 5 means",
    ):
        _ = recipe(five, normalize=", normalize: imagenet").branch_plan


def test_many_channels_from_training_to_export(five, tmp_path):
    made = recipe(five, backbone="cresnet20")
    out = tmp_path / "run"
    train(made, out, quiet=True)
    paths = [five / "a" / "00.npy", five / "b" / "01.tif"]
    model, data = open_model(str(out))
    answers = list(predict_files(model, paths, data.stored))
    assert [answer.path for answer in answers] == paths
    step = Run(out).step(made)
    images = [decode(path, "x", Stored(5)) for path in paths]
    chances = step.predict(images)["logits"].softmax(1)
    torch.testing.assert_close([answer.probability for answer in answers], chances.amax(1).tolist())
    (five / "three.png").write_bytes(png(noise(np.uint8, 8, 9, 3)))
    with pytest.raises(BadImage, match=r"three\.png: 3 channels, but data\.channels is 5$"):
        list(predict_files(model, [five / "three.png"], data.stored))

    export_timm(Run(out), tmp_path / "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(model((torch.stack(images) - 0.5) / 0.5), step.predict(images)["logits"])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_sheet_shows_the_first_channels(channels):
    pixels = noise(np.uint16, 6, 7, channels)
    shown = np.asarray(to_pil(decode(npy(pixels), "x", Stored(channels))))
    levels = np.rint(pixels / 65535 * 255)
    np.testing.assert_array_equal(shown, levels[..., :3] if channels >= 3 else levels[..., [0, 0, 0]])


@pytest.mark.parametrize("channels", [0, 17])
def test_1_to_16_channels(channels):
    with pytest.raises(RecipeError, match=r"^data\.channels: "):
        recipe("x", channels)
