"""Every rule of ``decode``, on real files written by Pillow."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from manyview.data import BadImage, decode
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
