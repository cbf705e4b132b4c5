"""Folders that are whole or not there."""

from pathlib import Path

import pytest

from commands import contents
from manyview.errors import RunError
from manyview.foundation.folders import filled


def half_filled(out):
    """Ends when half is written."""
    with filled(out) as folder:
        (folder / "half").write_text("written")
        raise ZeroDivisionError


def well_filled(out):
    with filled(out) as folder:
        (folder / "file").write_text("whole")
        return contents(out) if out.is_dir() else None


def test_a_folder_is_whole_or_not_there(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(ZeroDivisionError):
        half_filled(out)
    assert not [*tmp_path.iterdir()]
    assert well_filled(out) is None  # until all is there
    assert contents(tmp_path / "deep") == {"out": None, "out/file": b"whole"}
    for other, message in (
        (out, r"out is not empty; choose another folder$"),
        (out / "file", r"file is a file; choose another folder$"),
        (out / "file" / "below", r"^cannot write .*below: .*file is no folder$"),
    ):
        with pytest.raises(RunError, match=message):
            well_filled(other)
    assert contents(tmp_path / "deep") == {"out": None, "out/file": b"whole"}


def test_an_empty_folder_stays_the_one_that_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        half_filled(Path("."))
    assert not [*tmp_path.iterdir()]
    before = tmp_path.stat().st_ino
    well_filled(Path("."))
    assert contents(tmp_path) == {"file": b"whole"}
    assert tmp_path.stat().st_ino == before
