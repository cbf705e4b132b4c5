"""Names of many images in one piece of memory, and marks made from them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from manyview.data import FolderImages, Subset
from manyview.data.images import pack
from manyview.data.mark import is_same, mark_of
from manyview.data.names import AT_ONCE, Names, joined

NAMES = ["a/b.jpg", "c.png", "", "n01/n01_7.JPEG", "caf\udce9/\udce9.png", "ä/ö", "deep/er/and/deeper.tif", "a b/c d"]


def test_names_come_back():
    names = Names.of(NAMES)
    assert [*names] == NAMES
    assert [*names.take(np.array([3, 3, 0]))] == [NAMES[3], NAMES[3], NAMES[0]]
    assert [*joined([names, Names.of([]), names])] == NAMES * 2
    assert len(Names.of([])) == len(Names.of([]).take(np.empty(0, np.int64))) == 0
    with pytest.raises(IndexError):
        names[len(NAMES)]


def test_last_parts_are_those_of_paths():
    many = [f"n{number % 7}/{'x' * (number % 5)}{number}.jpg" for number in range(AT_ONCE + 100)]
    for names in (NAMES, [], [""], many):
        expected = b"".join(Path(name).name.encode(errors="surrogateescape") for name in names)
        assert b"".join(Names.of(names).last_parts()) == expected


def test_a_mark_is_what_older_versions_kept():
    """By their formula: name by name, label by label."""
    labels, index = np.arange(len(NAMES)) % 3, np.arange(len(NAMES))
    whole = FolderImages(Path("/data/x"), pack(NAMES), labels, index)
    for images in (whole, Subset(whole, np.array([0, 1, 3, 6])), Subset(whole, np.empty(0, np.int64))):
        digest, alone = hashlib.blake2b(images.labels.tobytes(), digest_size=16), hashlib.blake2b(digest_size=16)
        for position in range(len(images)):
            name = Path(images.name(position)).name if NAMES[images.index[position]] else ""
            digest.update(name.encode(errors="surrogateescape"))
            alone.update(name.encode(errors="surrogateescape"))
        which = {0: "", 4: "0-1,3,6", len(NAMES): f"0-{len(NAMES) - 1}"}[len(images)]
        old = {"count": len(images), "index": which, "digest": digest.hexdigest(), "images": alone.hexdigest()}
        assert mark_of(images) == old
        assert is_same(old, mark_of(images))
