"""`predict`: the files it finds, bad ones among them, names of all kinds, and streams that cannot show them."""

import io
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from commands import done, manyview, one_line, png
from manyview import cli
from manyview.data import BadImage
from manyview.judge.predict import predict_files
from manyview.judge.subject import open_model
from manyview.load import load_recipe
from manyview.training.train import train

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
        list(predict_files(open_model(str(run))[0], [good, bad[0]]))


def test_what_is_not_there_is_told_as_what_cannot_be_read(run, tmp_path):
    good, missing = png(tmp_path / "good.png"), tmp_path / "missing.png"
    (tmp_path / "bare").mkdir()
    told = f"manyview: no such file: {missing}\nmanyview: no images in {tmp_path / 'bare'}\n"
    code, out, err = manyview("predict", run, missing, good, tmp_path / "bare")
    assert (code, out, err) == (1, done("predict", run, good), told)
    code, _, err = manyview("embed", run, missing, good, tmp_path / "bare", "--out", tmp_path / "f.npz")
    assert (code, err) == (1, told)
    assert np.load(tmp_path / "f.npz")["features"].shape[0] == 1
    assert one_line(*manyview("predict", run, missing)) == f"no such file: {missing}"


def test_predict_takes_exports_and_models_of_timm(run, tmp_path):
    good = png(tmp_path / "good.png", size=(8, 8))
    done("export", run, tmp_path / "exported")
    own, exported = (done("predict", model, good, "--top", 3).split("\t") for model in (run, tmp_path / "exported"))
    assert exported[:2] == own[:2], "the file, and its class by its name"
    network = timm.create_model("resnet10t", num_classes=4)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    name, label, chance = done("predict", "resnet10t", good, "--checkpoint", tmp_path / "w.pt").rstrip("\n").split("\t")
    assert (name, label) == (str(good), label)
    assert label in ("0", "1", "2", "3"), "classes without names are their numbers"
    assert float(chance) > 0.25
    bare = timm.create_model("resnet10t", num_classes=0)
    torch.save(bare.state_dict(), tmp_path / "b.pt")
    line = one_line(*manyview("predict", "resnet10t", good, "--checkpoint", tmp_path / "b.pt"))
    assert line == "resnet10t trained no classifier, so it cannot predict classes"


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


def printed(encoding: str, *arguments) -> tuple[int, str, str]:
    """Exit code and what the command writes to streams of an encoding that refuses what it lacks."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", write_through=True) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["manyview", *map(str, arguments)])
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        with pytest.raises(SystemExit) as left:
            cli.main()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    return left.value.code or 0, out, err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_stream_that_lacks_characters_ends_nothing(run, tmp_path, encoding):
    """Neither the root sign of a run without labels, nor a table's frame, nor a name; what is lacking is escaped."""
    images = [png(tmp_path / "猫" / name, seed=number) for number, name in enumerate(("é.png", "caf\udce9.png"))]
    code, out, err = printed(encoding, "predict", run, *images)
    assert (code, err) == (0, "")
    cat, e = ("猫" if encoding == "utf-8" else r"\u732b"), (r"\xe9" if encoding == "ascii" else "é")
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        f"{tmp_path}/{cat}/{e}.png", rf"{tmp_path}/{cat}/caf\xe9.png"
    ]  # fmt: skip
    bad = tmp_path / "猫" / "bad.png"
    bad.touch()
    code, out, err = printed(encoding, "predict", run, bad)
    assert (code, out) == (1, "")
    assert err.endswith("bad.png: the file is empty (0 bytes)\n")
    training = ("train", "simclr_digits", "train.steps=2", "train.batch_size=16", "data.limit=40", "evaluate=[]",
                "branches.online.backbone=cresnet20", "train.log_every=1", "title=Größe 猫")  # fmt: skip
    code, out, err = printed(encoding, *training, "--out", tmp_path / "猫" / "new")
    assert code == 0, err
    size = r"Gr\xf6\xdfe" if encoding == "ascii" else "Größe"
    assert out.startswith(f"{size} {cat}\n")
    assert ("√d" if encoding == "utf-8" else r"\u221ad") in out


def test_a_program_that_trains_has_such_streams_too(tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252", errors="strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    recipe = load_recipe("simclr_digits", *TINY, "branches.online.backbone=cresnet20", "title=猫")
    train(recipe, tmp_path / "run")
    printed = stream.buffer.getvalue().decode("cp1252")
    assert printed.startswith("\\u732b\n")
    assert r"z_std·\u221ad" in printed
    assert stream.errors == "strict"
