"""Depth, photometric interpretation and transparency: what the numbers in a file mean, in RGB and as stored."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from manyview.data import BadImage, Stored, decode
from manyview.errors import ManyviewWarning


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def tiff(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def bits_tiff(pixels, bits, white_is_zero=False):
    """An uncompressed little-endian TIFF of integers [H, W] of 1 to 16 bits, from the format's definition."""
    height, width = pixels.shape
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in pixels.tolist()]
    rows = [row.ljust(-(-len(row) // 8) * 8, "0") for row in rows]
    data = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    if bits == 16:
        data = pixels.astype("<u2").tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 0 if white_is_zero else 1),
            (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    data += b"\0" * (len(data) % 2)
    return b"II" + struct.pack("<HI", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def png(pixels, bits, color, key=None, more=()):
    """A PNG of samples [H, W, C] of 1 to 16 bits, with a transparent colour; more: chunks before the pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = ["".join(f"{value:0{bits}b}" for value in row.reshape(-1)) for row in pixels]
    rows = [row.ljust(-(-len(row) // 8) * 8, "0") for row in rows]
    data = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    keys = b"" if key is None else chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunk(*one) for one in more) + keys
        + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )  # fmt: skip


def ramp(bits, height=5, width=9):
    """Integers from 0 to the largest of so many bits, mixed."""
    values = np.linspace(0, 2**bits - 1, height * width).round().astype(np.uint16)
    return np.random.default_rng(bits).permutation(values).reshape(height, width)


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16])
def test_tiff_samples_have_as_many_bits_as_the_file_says(bits, white_is_zero):
    values = ramp(bits)
    content = bits_tiff(values, bits, white_is_zero)
    shares = (2**bits - 1 - values if white_is_zero else values) / (2**bits - 1)
    stored = decode(content, "x", Stored(1))
    assert stored.dtype == (torch.uint8 if bits <= 8 else torch.float32)
    expected = np.rint(shares * 255) if bits <= 8 else shares.astype(np.float32)
    np.testing.assert_allclose(stored[0].numpy(), expected, rtol=1e-6)
    readable = (1, 2, 4, 8, 16) if white_is_zero else (1, 2, 4, 8, 12, 16)
    if bits in readable:
        levels = np.floor(shares * (2**bits - 1) / 2 ** (bits - 8) + 1e-6) if bits > 8 else np.rint(shares * 255)
        np.testing.assert_array_equal(decode(content, "x").numpy(), np.repeat(levels[None], 3, 0))
    else:
        with pytest.raises(BadImage, match=r"^x: a kind of TIFF that Pillow does not read; with data\.channels more"):
            decode(content, "x")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_16_bits_compressed_or_not(compression, photometric):
    values = ramp(16)
    content = tiff(values, photometric=photometric, compression=compression)
    meant = 65535 - values if photometric == "miniswhite" else values
    np.testing.assert_array_equal(decode(content, "x")[1].numpy(), meant >> 8)
    np.testing.assert_array_equal(decode(content, "x", Stored(1))[0].numpy(), (meant / 65535).astype(np.float32))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_colours_in_any_order(order, planes, channels):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    values[..., 3:] = 65535
    content = tiff(
        values if planes == "contig" else values.transpose(2, 0, 1), photometric="rgb", planarconfig=planes,
        byteorder=order, extrasamples=["unassalpha"] * (channels - 3),
    )  # fmt: skip
    np.testing.assert_array_equal(decode(content, "x").numpy(), values[..., :3].transpose(2, 0, 1) >> 8)
    stored = decode(content, "x", Stored(channels))
    np.testing.assert_array_equal(stored.numpy(), (values / 65535).astype(np.float32).transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_integers_of_no_stated_range_are_8_or_16_bits(dtype):
    deep = ramp(15).astype(dtype)
    np.testing.assert_array_equal(decode(tiff(deep), "x")[0].numpy(), deep >> 8)
    np.testing.assert_array_equal(decode(tiff(deep), "x", Stored(1))[0].numpy(), (deep / 65535).astype(np.float32))
    flat = ramp(8).astype(dtype)
    for stored in (None, Stored(1)):
        name = f"{dtype.__name__} {stored}.tif"
        with pytest.warns(
            ManyviewWarning, match=r"^\w+ .*\.tif: integers of no stated range, up to 255: taken for 8-bit"
        ):
            read = decode(tiff(flat), name, stored)
        expected = flat if stored is None else (flat / 255).astype(np.float32)
        np.testing.assert_array_equal(read[0].numpy(), expected)
    with pytest.raises(BadImage, match=r"^x: integer pixels from -3 to 5 do not fit in 16 bits$"):
        decode(tiff(np.array([[-3, 5]], dtype if dtype != np.uint32 else np.int32)), "x")


def test_signed_bytes_are_as_pillow_takes_them_and_told():
    values = np.array([[-128, -1, 0, 127]], np.int8)
    for stored in (None, Stored(1)):
        with pytest.warns(
            ManyviewWarning, match=r"^signed.*\.tif: its samples are signed; those under 0 are taken for"
        ):
            read = decode(tiff(values), f"signed {stored}.tif", stored)
        assert read[0].tolist() == [[128, 255, 0, 127]]


def test_what_becomes_black_is_told_with_its_name():
    dark = np.array([[0, 7, 255]], np.uint16)
    with pytest.warns(ManyviewWarning, match=r"^dark\.tif: becomes black in 8 bits: its levels end at 255 of 65535$"):
        assert not decode(tiff(dark), "dark.tif").any()
    with pytest.warns(ManyviewWarning, match=r"^dark\.png: becomes black in 8 bits: "):
        assert not decode(png(dark[..., None], 16, 0), "dark.png").any()
    colour = np.stack([dark] * 3, 2)
    with pytest.warns(ManyviewWarning, match=r"^colour\.png: is black in 8 bits: only the higher byte of its 16-bit"):
        assert not decode(png(colour, 16, 2), "colour.png").any()
    assert decode(tiff(dark), "x", Stored(1)).any()  # as it is stored, nothing is lost
    assert not decode(tiff(np.zeros((2, 2), np.uint16)), "black.tif").any()  # nothing to tell


@pytest.mark.parametrize("most", [1, 3, 15, 255, 1023, 4095, 65535])
def test_netpbm_greys_are_shares_of_their_largest(most):
    values = np.linspace(0, most, 12).round().astype(">u2" if most > 255 else np.uint8).reshape(3, 4)
    content = b"P5 4 3 %d\n" % most + values.tobytes()
    levels = decode(content, "x")[0].numpy()
    assert np.abs(levels - values / most * 255).max() <= 1
    stored = decode(content, "x", Stored(1))[0].numpy()
    np.testing.assert_allclose(stored / (255 if most <= 255 else 1), values / most, atol=0.5 / min(most, 255) / 1.9)


# -------------------------------------------------------------------------------------------------- transparent colours


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white(bits):
    values = ramp(bits)[..., None]
    key = int(values[2, 3, 0]) if bits > 1 else 0
    content = png(values, bits, 0, (key,))
    kept = values[..., 0] != key
    shares = values[..., 0] / (2**bits - 1)
    levels = values[..., 0] >> 8 if bits == 16 else np.rint(shares * 255)
    read = decode(content, "x").numpy()
    np.testing.assert_array_equal(read, np.repeat(np.where(kept, levels, 255)[None], 3, 0))
    stored = decode(content, "x", Stored(1))[0].numpy()
    expected = shares.astype(np.float32) if bits == 16 else levels
    np.testing.assert_array_equal(stored, np.where(kept, expected, 1 if bits == 16 else 255))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white(bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (4, 5, 3))
    values[1, 2] = values[3, 3]
    content = png(values, bits, 2, values[3, 3].tolist())
    clear = (values == values[3, 3]).all(2)
    read, stored = (decode(content, "x", kind).numpy() for kind in (None, Stored(3)))
    assert clear.sum() == 2
    assert (read[:, clear] == 255).all()
    assert (stored[:, clear] == (255 if bits == 8 else 1)).all()
    np.testing.assert_array_equal(read[:, ~clear], values[~clear].T >> (bits - 8))
    np.testing.assert_allclose(stored[:, ~clear], values[~clear].T / (2**bits - 1 if bits == 16 else 1), rtol=1e-6)


def test_significant_bits_and_profiles_change_no_pixel():
    values = ramp(16)[..., None]
    plain = png(values, 16, 0)
    marked = png(values, 16, 0, more=[(b"sBIT", b"\x0c"), (b"gAMA", struct.pack(">I", 100000))])
    for stored in (None, Stored(1)):
        assert torch.equal(decode(marked, "x", stored), decode(plain, "x", stored))
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 90, 10)).save(buffer, "PNG", icc_profile=b"not applied, so not even read")
    assert decode(buffer.getvalue(), "x")[:, 0, 0].tolist() == [200, 90, 10]


# ---------------------------------------------------------------------------------------------------------- orientation


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def exif_text():
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = b"Exif\0\0" + exif.tobytes()[6:]
    return f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("place", ["zTXt", "tEXt", "iTXt XMP", "eXIf"])
def test_orientation_wherever_a_png_keeps_it(place, bits):
    values = ramp(bits)[..., None]
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = {
        "zTXt": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(exif_text())),
        "tEXt": (b"tEXt", b"Raw profile type exif\0" + exif_text()),
        "iTXt XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()),
        "eXIf": (b"eXIf", exif.tobytes()[6:]),
    }[place]
    content, plain = png(values, bits, 0, more=[chunk]), png(values, bits, 0)
    for stored in (None, Stored(1)):
        upright = decode(plain, "x", stored).rot90(-1, (1, 2))
        assert torch.equal(decode(content, "x", stored), upright)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tag", [(274, 3, 1, 6), (700, 1, len(XMP), XMP.encode())], ids=["tag", "XMP"])
def test_orientation_of_a_tiff(tag, dtype):
    values = (ramp(8) * (1 if dtype == np.uint8 else 257)).astype(dtype)
    content, plain = tiff(values, extratags=[(*tag, True)]), tiff(values)
    for stored in (None, Stored(1)):
        assert torch.equal(decode(content, "x", stored), decode(plain, "x", stored).rot90(-1, (1, 2)))


def exif_block(kind, value):
    """An EXIF block whose orientation is of another type than SHORT, by the numbers of TIFF."""
    entry = struct.pack("<HHI", 0x0112, kind, len(value) // {1: 1, 2: 1, 7: 1, 11: 4}[kind]) + value.ljust(4, b"\0")
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0\0\0\0"


@pytest.mark.parametrize(
    ("kind", "value"), [(1, b"\x06"), (7, b"\x06"), (2, b"6\0"), (11, struct.pack("<f", float("nan")))]
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_an_orientation_of_another_type_turns_nothing(format, kind, value):
    """Four of TIFF's types: BYTE, UNDEFINED, ASCII, FLOAT. Such an image was no image, or turned in one mode alone."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    contents = []
    for options in ({}, {"exif": b"Exif\0\0" + exif_block(kind, value)}):
        buffer = io.BytesIO()
        picture.save(buffer, format, **options)
        contents.append(buffer.getvalue())
    for stored in (None, Stored(3)):
        plain, told = (decode(content, "x", stored) for content in contents)
        assert torch.equal(told, plain)


@pytest.mark.parametrize("place", ["exif", "xmp"])
@pytest.mark.parametrize("format", ["WEBP", "JPEG"])
def test_orientation_of_other_formats(format, place):
    exif = Image.Exif()
    exif[0x0112] = 6
    said = {"exif": exif} if place == "exif" else {"xmp": XMP.encode()}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    contents = []
    for options in ({}, said):
        buffer = io.BytesIO()
        picture.save(buffer, format, lossless=True, **options)
        contents.append(buffer.getvalue())
    for stored in (None, Stored(3)):
        plain, turned = (decode(content, "x", stored) for content in contents)
        assert torch.equal(turned, plain.rot90(-1, (1, 2)))
