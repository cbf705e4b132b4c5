"""`predict`: the files it finds, bad ones among them, names of all kinds, and streams that cannot show them."""

import os
import re
import shutil
from pathlib import Path

import pytest

from commands import done, manyview, png
from manyview.data import BadImage
from manyview.predict import predict_files

TINY = ("train.steps=2", "train.batch_size=16", "train.schedule=constant()", "data.limit=40", "evaluate=[]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    done("train", "quickstart", *TINY, "--quiet", "--out", folder)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_predict_goes_on_after_a_bad_file(run, tmp_path):
    """Named on stderr; exit code 1, but 0 where the run itself was told to pass over such files."""
    good, last = png(tmp_path / "a.png"), png(tmp_path / "z.png", seed=1)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    bad = [tmp_path / name for name in ("text.png", "cut.png", "empty.png", "pipe.png")]
    code, out, err = manyview("predict", run, good, *bad, last)
    assert (code, [line.split("\t")[0] for line in out.splitlines()]) == (1, [str(good), str(last)])
    assert out == done("predict", run, good, last)
    assert re.fullmatch("".join(rf"manyview: {path}: [^\n]+\n" for path in map(str, bad)), err)
    assert manyview("predict", run, bad[0])[:2] == (1, "")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("on_bad_image: raise", "on_bad_image: skip"))
    assert manyview("predict", run, good, *bad, last) == (0, out, err)
    with pytest.raises(BadImage, match=r"text\.png: not an image"):
        list(predict_files(run, [good, bad[0]]))


def test_predict_finds_what_training_finds(run, tmp_path):
    folder = tmp_path / "new"
    for name in ("b/1.png", "a.PNG", "._a.png", ".hidden/x.png", "__MACOSX/b/1.png", "odd"):
        png(folder / "x.png").rename(tmp_path / "moved")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "moved").rename(folder / name)
    (folder / "b/up").symlink_to(folder)
    png(tmp_path / "elsewhere/1.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "b/pipe.png")
    code, out, err = manyview("predict", run, folder)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        str(folder / name) for name in ("a.PNG", "b/1.png", "linked/1.png", "odd")
    ]
    assert err == (
        f"manyview: {folder}: left out: 2 hidden, 1 link to a folder above (1 b/up), 1 neither file nor folder, "
        "1 of an operating system\n"
    )


def test_names_do_not_break_the_lines_of_predict(run, tmp_path):
    names = ["a\tb.png", "c\nd.png", "e\\tf.png", "g\u2028h.png", "猫.png", "caf\udce9.png"]
    for name in names:
        png(tmp_path / "x.png").rename(tmp_path / name)
    lines = [line.split("\t") for line in done("predict", run, *(tmp_path / name for name in names)).splitlines()]
    shown = [r"a\tb.png", r"c\nd.png", r"e\\tf.png", r"g\u2028h.png", "猫.png", r"caf\xe9.png"]
    assert [line[0] for line in lines] == [f"{tmp_path}/{name}" for name in shown]
    assert {len(line) for line in lines} == {3}
    (tmp_path / "bad\n.png").write_text("no picture")
    assert manyview("predict", run, tmp_path / "bad\n.png")[2] == (
        f"manyview: {tmp_path}/bad\\n.png: not an image in a format that Pillow reads\n"
    )
