"""What decoders warn of: one line that names the image, once, from wherever it is read."""

import io
import logging
import os
import signal
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from manyview.data import BadImage, Stored, decode, doubts, size_of
from manyview.data.doubts import NAMED, overheard, tell
from manyview.errors import ManyviewWarning


def jpeg_with_damaged_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 100
    raw = exif.tobytes()
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 90, 10)).save(buffer, "JPEG", exif=raw[:60])
    return buffer.getvalue()


def told(*calls):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call in calls:
            call()
    assert all(issubclass(warning.category, ManyviewWarning) for warning in caught), [str(w.message) for w in caught]
    return [str(warning.message) for warning in caught]


def test_damaged_exif_is_one_line_with_the_name_once():
    content = jpeg_with_damaged_exif()
    with (
        pytest.warns(UserWarning, match="^Tag data larger than file|^Truncated File"),
        Image.open(io.BytesIO(content)) as image,
    ):
        image.getexif().get(0x0112)  # what Pillow says of it names nothing
    lines = told(*[lambda: decode(content, "a.jpg")] * 5, lambda: decode(content, "b.jpg"), lambda: size_of(content))
    assert [line.partition(": ")[0] for line in lines] == ["a.jpg", "b.jpg"]
    assert all("\n" not in line for line in lines)


def test_logs_are_warnings_too(caplog):
    values = np.zeros((4, 4), np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values)
    content = bytearray(buffer.getvalue())
    at = content.index((305).to_bytes(2, "little"))  # Software, whose text now lies beyond the file
    content[at + 8 : at + 12] = b"\xff\xff\xff\x7f"
    with overheard(logged=True) as lines, tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        file.pages[0].tags.valueof(305)
    assert lines
    said = told(*[lambda: decode(bytes(content), "logged.tif", Stored(1))] * 2)
    assert [line.partition(": ")[0] for line in said] == ["logged.tif"]
    assert not logging.getLogger("tifffile").handlers or logging.getLogger("tifffile").handlers == []


def test_what_libtiff_prints_is_a_warning(capfd):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random((64, 64)) > 0.5).save(buffer, "TIFF", compression="group4")
    content = bytearray(buffer.getvalue())
    content[100:104] = b"\xff" * 4
    lines = told(lambda: decode(bytes(content), "fax.tif"))
    assert len(lines) == 1
    assert lines[0].startswith("fax.tif: ")
    assert "Fax4" in lines[0]
    assert capfd.readouterr().err == ""


def test_other_threads_keep_their_warnings_and_doubts_their_images():
    content, wrong = jpeg_with_damaged_exif(), []

    def work(number):
        for turn in range(20):
            with overheard() as lines, Image.open(io.BytesIO(content)) as image:
                image.getexif().get(0x0112)
                warnings.warn(f"thread {number}", stacklevel=1)  # not a decoder's, but of this thread
            if f"thread {number}" not in lines or any(
                f"thread {other}" in lines for other in range(4) if other != number
            ):
                wrong.append((number, turn, lines))

    usual = warnings.showwarning, warnings.filters[:]
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert (warnings.showwarning, warnings.filters) == usual


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_meanwhile_decodes_and_restores_what_it_found():
    content, listening, done = jpeg_with_damaged_exif(), threading.Event(), threading.Event()
    usual = warnings.showwarning

    def listen():
        with overheard(), doubts._printing:
            listening.set()
            done.wait(60)

    thread = threading.Thread(target=listen)
    thread.start()
    listening.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(30)
        same = doubts._printing.acquire(blocking=False) and warnings.showwarning is usual
        with warnings.catch_warnings(record=True) as caught:
            decode(content, "forked.jpg")
        os._exit(0 if same and [str(warning.message)[:12] for warning in caught] == ["forked.jpg: "] else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_a_bomb_is_one_line_in_both_modes():
    """A few bytes that claim to be a billion pixels are refused before anything is unfolded."""
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 16, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    png = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((8, 8), np.uint16), compression="zlib")
    tiff = bytearray(buffer.getvalue())
    for tag in (256, 257, 278):  # width, height, rows of the one strip
        at = tiff.index(struct.pack("<H", tag), 8)
        tiff[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 90_000)
    for content in (b"\x89PNG\r\n\x1a\n" + png, bytes(tiff)):
        for stored in (None, Stored(1)):
            with pytest.raises(BadImage, match=r"^bomb: .*(exceeds limit|more than \d+ pixels)") as caught:
                decode(content, "bomb", stored)
            assert "\n" not in str(caught.value)


def test_of_one_kind_only_some_images_are_named():
    lines = told(*[lambda n=n: tell(f"{n}.png", [f"{n} of many"]) for n in range(NAMED * 3)])
    assert len(lines) == NAMED + 1
    assert lines[-1].endswith("(as do more images, which are not named)")
    assert len(told(lambda: tell("0.png", ["another kind"]))) == 1
