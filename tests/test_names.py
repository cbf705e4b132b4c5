"""Names that are no text, or hold ends of lines: of images, classes, data and runs, from training to replay."""

import json
import os
from pathlib import Path

import pytest

from commands import done, manyview, one_line, png
from manyview.errors import shown
from manyview.training.run import Run

ROOT, RUN = os.fsdecode(b"donn\xe9es"), os.fsdecode(b"run\xe9")
CLASSES = (os.fsdecode(b"ch\xe2t"), "dog\t1", "猫")
TRAINING = ("train.steps=2", "train.batch_size=8", "train.schedule=constant()", "evaluate=[knn(k=3)]")


def spoilt(folder: Path, label: str) -> Path:
    return folder / ROOT / "train" / label / os.fsdecode(b"caf\xe9\n3.png")


@pytest.fixture
def data(tmp_path) -> Path:
    """root/{train,test}/CLASS/caf\\xe9\\n{0-7}.png, one of them no image."""
    made = png(tmp_path / "x.png")
    for split in ("train", "test"):
        for label in CLASSES:
            for number in range(8):
                path = tmp_path / ROOT / split / label / os.fsdecode(b"caf\xe9\n%d.png" % number)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(made, seed=number).read_bytes())
    spoilt(tmp_path, CLASSES[1]).write_text("no picture")
    return tmp_path / ROOT


def test_names_that_are_no_text(data, tmp_path):
    """A whole life of a run in one test, since each step reads what the one before wrote."""
    run = tmp_path / RUN
    common = ("data.source=folder", f"data.root={data}", "data.on_bad_image=skip", *TRAINING)
    code, out, err = manyview("train", "quickstart", *common, "--out", run)
    assert code == 0, err
    line = rf"{tmp_path}/donn\xe9es/train/dog\t1/caf\xe9\n3.png: not an image in a format that Pillow reads"
    assert line in out.splitlines()[-1]
    assert Run(run).finished()["skipped_images"] == [line]
    assert Run(run).classes() == list(CLASSES)
    assert Run(run).recipe().data.root == str(data)
    for path in run.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".yaml", ".md"):
            path.read_bytes().decode()
    assert "knn" in done("eval", run, "knn(k=3)", "--split", "test").lower()
    assert (run / "reports" / "knn_k=3_test.md").read_bytes().decode()
    index = json.loads((run / "splits.json").read_text())["train"]["index"].partition("-")[0]
    drawn = done("replay", run, "--index", index, "--epoch", 0, "--out", tmp_path / "seen.png")
    assert drawn.count("\n") == 1
    assert rf"caf\xe9\n{index}.png" in drawn
    code, out, err = manyview("predict", run, data / "train")
    assert (code, len(out.splitlines()), err) == (0, 23, f"manyview: {line}\n")
    code, out, err = manyview("views", "quickstart", data / "train", common[2], "--out", tmp_path / "views.png")
    assert (code, err) == (0, f"manyview: {line}\n")
    again = manyview("train", "quickstart", *common, "train.steps=3", "--resume", "--out", run)
    assert one_line(*again).startswith(rf"{tmp_path}/run\xe9 was made by another recipe: train.steps: 2 -> 3; ")


def test_names_in_a_refusal(data, tmp_path):
    arguments = ("train", "quickstart", "data.source=folder", f"data.root={data}", *TRAINING, "data.val_fraction=0")
    message = one_line(*manyview(*arguments, "train.batch_size=24", "--quiet", "--out", tmp_path / "run"))
    assert message.startswith(rf"{tmp_path}/donn\xe9es/train/dog\t1/caf\xe9\n3.png: not an image")
    (data / "train" / "empty\n").mkdir()
    message = one_line(*manyview(*arguments, "--out", tmp_path / "run"))
    assert message.startswith(rf"no images in 'empty\n' of {tmp_path}/donn\xe9es/train;")


def test_shown_leaves_text_alone():
    assert shown("Größe 猫 \u202f\xa0.png") == "Größe 猫 \u202f\xa0.png"
    assert shown("a\x00b\x1bc\x85d\u2029e\ud800f\udcff") == r"a\x00b\x1bc\x85d\u2029e\ud800f\xff"
