"""The command line called in this process, and files for it: what several test modules share."""

import contextlib
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyview import cli


def manyview(*arguments, stdout: io.StringIO | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, run in this process."""
    out, err = stdout or io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["manyview", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return left.value.code or 0, out.getvalue(), err.getvalue()


def done(*arguments) -> str:
    """What a command prints that must succeed."""
    code, out, err = manyview(*arguments)
    assert (code, err) == (0, ""), err
    return out


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file under a folder and what it holds; folders hold None."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def one_line(code: int, out: str, err: str) -> str:
    """The message of a refusal: exit code 2, nothing on stdout, one line on stderr."""
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"manyview: [^\n]+\n", err), err
    return err.removeprefix("manyview: ").rstrip("\n")


def png(path: Path, size=(16, 16), seed=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
