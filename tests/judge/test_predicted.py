"""Predictions in each format, with names that have every character; files in place of stdout."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from commands import contents, done, manyview, one_line, png
from manyview.data import decode
from manyview.judge.predict import Prediction
from manyview.judge.predicted import as_lines
from manyview.training.run import Run

ODD = [
    "plain.png",
    "with,comma.png",
    'with "quotes".png',
    "with\ttab.png",
    "two\nlines.png",
    "back\\slash.png",
    "ü.png",
]
TINY = ("train.steps=3", "train.batch_size=16", "train.schedule=cosine()", "data.limit=60")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done("train", "quickstart", *TINY, "--out", out, "--quiet")
    return out


@pytest.fixture
def odd(tmp_path) -> list[Path]:
    return [png(tmp_path / "odd" / name, (8, 8), seed=number) for number, name in enumerate(ODD)]


def expected(run: Path, paths: list[Path], top: int) -> list[list[tuple[str, float]]]:
    """Classes with their probabilities, sorted here."""
    step = Run(run).step(Run(run).recipe())
    found = []
    for path in paths:
        chances = step.predict(decode(path, str(path))[None])["logits"].double().softmax(1)[0]
        order = sorted(range(10), key=lambda label: float(chances[label]), reverse=True)
        found.append([(str(label), float(chances[label])) for label in order[:top]])
    return found


@pytest.mark.parametrize("top", [1, 3, 50])
def test_every_format_tells_the_same(trained, odd, top):
    wanted = expected(trained, odd, top)
    shown = min(top, 10)

    def told(kind: str) -> str:
        code, out, err = manyview("predict", trained, *odd, "--top", top, "--format", kind)
        assert (code, err) == (0, "manyview: --top 50: there are 10 classes\n" if top == 50 else "")
        return out

    objects = [json.loads(line) for line in told("json").splitlines()]
    assert [each["file"] for each in objects] == [str(path) for path in odd]
    for each, best in zip(objects, wanted, strict=True):
        assert each.keys() == {"file", "predictions"}
        assert [part["class"] for part in each["predictions"]] == [label for label, _ in best]
        assert [part["probability"] for part in each["predictions"]] == pytest.approx([p for _, p in best], abs=2e-6)

    header, *rows = csv.reader(io.StringIO(told("csv"), newline=""))
    places = [""] if top == 1 else [f"_{place + 1}" for place in range(shown)]
    assert header == ["file", *(f"{name}{place}" for place in places for name in ("class", "probability"))]
    tabbed = [line.split("\t") for line in told("tsv").splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in odd]
    escaped = [str(path).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n") for path in odd]
    assert [row[0] for row in tabbed] == escaped
    for lines, digits in ((rows, 6), (tabbed, 4)):
        for row, best in zip(lines, wanted, strict=True):
            assert row[1::2] == [label for label, _ in best]
            assert [float(cell) for cell in row[2::2]] == pytest.approx([p for _, p in best], abs=1.01 * 10**-digits)


def test_what_is_not_asked_for_is_as_it_was(trained, odd):
    assert done("predict", trained, *odd) == done("predict", trained, *odd, "--format", "tsv", "--top", 1)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.csv", "csv"), ("a.json", "json"), ("a.jsonl", "json"), ("a.TSV", "tsv"), ("a", "tsv")]
)
def test_a_file_in_place_of_stdout(trained, odd, tmp_path, name, kind):
    out = tmp_path / "new" / name
    assert done("predict", trained, *odd, "--top", 2, "--out", out) == f"wrote {out}\n"
    assert out.read_text(encoding="utf-8") == done("predict", trained, *odd, "--top", 2, "--format", kind)
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_bad_files_are_told_and_the_others_written(trained, odd, tmp_path):
    odd[2].write_bytes(b"no picture")
    out = tmp_path / "told.csv"
    code, printed, err = manyview("predict", trained, *odd, "--out", out)
    assert (code, printed) == (1, f"wrote {out}\n")
    assert err.startswith(f"manyview: {odd[2]}: ")
    with out.open(newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == [str(path) for path in odd if path != odd[2]]


def test_mistakes_are_told_before_the_work(trained, odd, tmp_path):
    before = contents(tmp_path)
    refused = lambda *words: one_line(*manyview("predict", trained, *odd, *words))  # noqa: E731
    assert refused("--format", "cvs") == "--format: unknown format 'cvs'; did you mean 'csv'? formats: csv, json, tsv"
    assert refused("--out", tmp_path) == f"cannot write {tmp_path}: Is a directory"
    assert refused("--out", odd[0] / "x") == f"cannot write {odd[0] / 'x'}: {odd[0]} is no folder"
    assert "--top" in refused("--top", 0)
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_that_are_no_text():
    path = Path(os.fsdecode(b"caf\xe9,\n.png"))
    one = [Prediction(path, (("a\tb", 0.75), ('c"d', 0.25)))]
    assert list(as_lines(one, "tsv")) == ['caf\\xe9,\\n.png\ta\\tb\t0.7500\tc"d\t0.2500\n']
    (line,) = as_lines(one, "json")
    assert json.loads(line) == {"file": str(path), "predictions": [
        {"class": "a\tb", "probability": 0.75}, {"class": 'c"d', "probability": 0.25}]}  # fmt: skip
    assert line.isascii()
    header, row = as_lines(one, "csv", 2)
    assert header == "file,class_1,probability_1,class_2,probability_2\n"
    assert next(csv.reader(io.StringIO(row, newline=""))) == [str(path), "a\tb", "0.750000", 'c"d', "0.250000"]
