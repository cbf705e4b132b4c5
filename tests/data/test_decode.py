"""Every rule of ``decode``, on real files written by Pillow."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps

from manyview.data import BadImage, Stored, decode, scale_for, size_of
from manyview.errors import DataError


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def solid(mode, color, size=(4, 3)):
    return Image.new(mode, size, color)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_rgb_pixels_are_channels_first_and_exact(noise):
    pixels = decode(encoded(Image.fromarray(noise)), "x")
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 5, 7)
    np.testing.assert_array_equal(pixels.numpy(), noise.transpose(2, 0, 1))


def test_a_path_reads_like_its_bytes_and_the_result_is_writable(noise, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Image.fromarray(noise)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(path, str(path))
    pixels += 1
    assert torch.equal(decode(path, "x") + 1, pixels)


def test_jpeg_is_close_and_cmyk_is_converted(noise):
    smooth = solid("RGB", (200, 100, 50))
    pixels = decode(encoded(smooth, "JPEG", quality=95), "x").float()
    assert (pixels.mean((1, 2)) - torch.tensor([200.0, 100.0, 50.0])).abs().max() < 3
    cmyk = decode(encoded(solid("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), "x").float().mean((1, 2))
    assert cmyk[0] > 240
    assert cmyk[1:].max() < 15


@pytest.mark.parametrize(("mode", "value", "expected"), [("L", 77, 77), ("1", 1, 255), ("1", 0, 0)])
def test_gray_is_repeated(mode, value, expected):
    assert torch.equal(decode(encoded(solid(mode, value)), "x"), torch.full((3, 3, 4), expected, dtype=torch.uint8))


@pytest.mark.parametrize(("format", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_16_bit_gray_drops_its_low_byte(format, order):
    values = np.array([[0, 255, 256], [0x1234, 0x80FF, 0xFFFF]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(values.astype(order)), format), "x")
    np.testing.assert_array_equal(pixels.numpy(), np.repeat((values >> 8)[None], 3, 0))


def test_16_bit_values_in_32_bits_too_but_nothing_larger():
    values = np.array([[0, 0x1234, 0xFFFF]], dtype=np.int32)
    pixels = decode(encoded(Image.fromarray(values), "TIFF"), "x")
    assert pixels[0].tolist() == [[0, 0x12, 0xFF]]
    with pytest.raises(BadImage, match=r"^deep\.tif: integer pixels from 0 to 65536 do not fit in 16 bits$"):
        decode(encoded(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)), "TIFF"), "deep.tif")


def test_float_pixels_are_refused():
    with pytest.raises(BadImage, match=r"^f\.tif: float pixels have no agreed range"):
        decode(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "f.tif")


def test_alpha_is_composited_over_white():
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 255, 51)):
        image.putpixel((x, 0), (100, 0, 200, alpha))
    red = [255, 100, round(255 + (100 - 255) * 0.2)]
    blue = [255, 200, round(255 + (200 - 255) * 0.2)]
    pixels = decode(encoded(image), "x")
    assert pixels[:, 0].tolist() == [red, [255, 0, 204], blue]
    gray = decode(encoded(solid("LA", (0, 51))), "x")
    assert gray.unique().tolist() == [204]


def test_palette_with_and_without_transparency():
    image = solid("P", 1, size=(2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    assert decode(encoded(image), "x")[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    assert decode(encoded(image, transparency=0), "x")[:, 0].T.tolist() == [[255, 255, 255], [40, 50, 60]]


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_animation_gives_its_first_frame(format):
    frames = [solid("RGB", (255, 0, 0)), solid("RGB", (0, 0, 255))]
    pixels = decode(encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True), "x")
    assert pixels.amax((1, 2)).tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, noise):
    upright = noise.transpose(2, 0, 1)
    stored = {  # the inverse of what a viewer must do
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](noise)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(decode(data, "x").numpy(), upright)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_files_are_bad_and_never_half_grey(format):
    big = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(big, format)
    with pytest.raises(BadImage, match=r"^train row 17: \S.*$") as caught:
        decode(data[: len(data) // 2], "train row 17")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DataError)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_the_reason_is_named(tmp_path):
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(BadImage, match=r"empty\.png: the file is empty \(0 bytes\)$"):
        decode(empty, str(empty))
    with pytest.raises(BadImage, match=r"^row 3: not an image in a format that Pillow reads$"):
        decode(b"<html>404</html>", "row 3")
    with pytest.raises(BadImage, match=r"^gone\.png: No such file or directory$"):
        decode(Path("gone.png"), "gone.png")


# --- JPEG: one library for speed, the other for what it refuses; smaller scales ---


def photo(width=300, height=211):
    """Smooth colours with edges and a little noise, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (17 + 5 * c)) * np.cos(y / (23 - 4 * c)) + (x > y + 30 * c) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return np.clip(np.stack(waves, 2) * 50 + 110 + noise, 0, 255).astype(np.uint8)


def by_pillow(data, scale=1, mode="RGB"):
    with Image.open(io.BytesIO(data)) as image:
        finer = next(s for s in (8, 4, 2, 1) if s <= min(scale, *image.size))  # than the image there are no blocks
        image.draft(image.mode, (image.width // finer, image.height // finer))
        return np.array(ImageOps.exif_transpose(image).convert(mode).reduce(scale // finer)).transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(300, 211), (64, 65), (261, 4), (33, 17), (7, 9), (1, 1)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_jpeg_equals_pillow_at_every_scale(options, size, mode):
    data = encoded(Image.fromarray(photo(*size)).convert(mode), "JPEG", quality=88, **options)
    for scale in (1, 2, 4, 8):
        pixels = decode(data, "x", scale=scale)
        assert pixels.shape == (3, *by_pillow(data, scale).shape[1:])
        np.testing.assert_array_equal(pixels.numpy(), by_pillow(data, scale))
        assert pixels.shape[1:] == (-(-size[1] // scale), -(-size[0] // scale))


def test_a_smaller_scale_shows_the_same_picture():
    data = encoded(Image.fromarray(photo(320, 240)), "JPEG", quality=90)
    full = decode(data, "x").float()
    for scale in (2, 4, 8):
        means = full.unfold(1, scale, scale).unfold(2, scale, scale).mean((3, 4))
        assert (decode(data, "x", scale=scale) - means).abs().mean() < 2


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP"])
def test_other_formats_have_one_scale(format, noise):
    data = encoded(Image.fromarray(noise), format)
    assert torch.equal(decode(data, "x", scale=8), decode(data, "x"))
    assert size_of(data) is None


def test_a_scale_that_does_not_exist():
    with pytest.raises(BadImage, match=r"^x: scale must be 1, 2, 4 or 8, got 3$"):
        decode(encoded(Image.fromarray(photo()), "JPEG"), "x", scale=3)


def turned(size, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(photo(*size)), "JPEG", exif=exif, quality=90, **options)


def means(pixels, scale):
    """Every `scale` pixels a side as their mean, those that are left over at the end as theirs; float [C, h, w]."""
    for axis in (1, 2):
        starts = np.arange(0, pixels.shape[axis], scale)
        counts = np.minimum(scale, pixels.shape[axis] - starts)
        sums = np.add.reduceat(pixels.astype(float), starts, axis)
        pixels = sums / counts.reshape([-1 if n == axis else 1 for n in range(3)])
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(257, 129), (256, 135), (260, 132), (263, 262), (256, 192), (261, 4), (70, 90)])
def test_a_part_of_the_size_begins_at_the_upright_corner(size, orientation):
    """Pixel i stands for the pixels from scale * i on, in all orientations, and what is left over comes last."""
    data = turned(size, orientation, subsampling=0)
    full = decode(data, "x").numpy()
    for scale in (2, 4, 8):
        pixels = decode(data, "x", scale=scale).numpy()
        assert pixels.shape[1:] == tuple(-(-side // scale) for side in full.shape[1:])
        np.testing.assert_array_equal(decode(data, "x", Stored(3), scale).numpy(), pixels)
        apart = np.abs(pixels - means(full, scale))
        assert apart.mean() < 2.5  # another low-pass filter; a shift by a pixel of the whole is over 3
        beside = means(np.roll(full, 1, 2), scale)
        if size != (261, 4):
            assert apart.mean() < np.abs(pixels - beside).mean()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_stands_upright_and_so_does_its_size(orientation, tmp_path):
    data = turned((300, 211), orientation)
    np.testing.assert_array_equal(decode(data, "x").numpy(), by_pillow(data))
    whole = turned((304, 208), orientation)  # no block is cut off: the decoder's own pixels at every scale
    for scale in (2, 4, 8):
        np.testing.assert_array_equal(decode(whole, "x", scale=scale).numpy(), by_pillow(whole, scale))
    (tmp_path / "x.jpg").write_bytes(data)
    assert size_of(data) == size_of(tmp_path / "x.jpg") == decode(data, "x").shape[1:]


def test_the_size_of_what_cannot_be_scaled_is_left_to_decoding(tmp_path):
    cmyk = encoded(solid("CMYK", (0, 255, 255, 0)), "JPEG")
    assert [size_of(data) for data in (cmyk, b"", b"<html>", tmp_path / "gone.jpg")] == [None] * 4
    assert size_of(encoded(solid("L", 3, (5, 4)), "JPEG")) == (4, 5)


def test_damage_that_pillow_passes_over_does_not_lose_the_image(capfd):
    whole = encoded(Image.fromarray(photo()), "JPEG", quality=90)
    rng, passed = np.random.default_rng(0), 0
    for _ in range(30):
        broken = bytearray(whole)
        broken[int(rng.integers(700, len(whole) - 2))] ^= int(rng.integers(1, 256))
        try:
            seen = by_pillow(bytes(broken))
        except OSError:
            with pytest.raises(BadImage, match=r"^x: \S"):
                decode(bytes(broken), "x")
        else:
            passed += 1
            np.testing.assert_array_equal(decode(bytes(broken), "x").numpy(), seen)
    assert passed > 10
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("boxes", "sizes", "scale"),
    [
        ([[0, 0, 64, 64]], [[32, 32]], 2),
        ([[0, 0, 63.9, 64]], [[32, 32]], 1),
        ([[0, 0, 64, 63.9]], [[32, 32]], 1),
        ([[5, 9, 255, 300]], [[32, 32]], 4),
        ([[5, 9, 256, 300]], [[32, 32]], 8),
        ([[0, 0, 2000, 2000]], [[32, 32]], 8),
        ([[0, 0, 300, 300], [0, 0, 70, 300]], [[32, 32], [32, 32]], 2),
        ([[0, 0, 300, 300], [0, 0, 70, 300]], [[32, 32], [8, 32]], 8),
        ([[0, 0, 20, 20]], [[32, 32]], 1),
    ],
)
def test_the_coarsest_scale_that_enlarges_no_crop(boxes, sizes, scale):
    boxes, sizes = torch.tensor(boxes), torch.tensor(sizes)
    assert scale_for(boxes, sizes) == scale
    assert scale == 1 or bool((boxes[:, 2:] / scale >= sizes).all())
    assert scale == 8 or not bool((boxes[:, 2:] / (2 * scale) >= sizes).all())
