"""`manyview new`: a skeleton and its test, which work as they stand."""

import importlib.util
import inspect
import shlex

import pytest

import manyview
from commands import contents, done, one_line
from commands import manyview as command
from manyview.words.load import words_of
from manyview.words.new import KINDS, write_new


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow(reason="some of the written tests train a run on the digits")
def test_a_skeleton_works_as_it_stands(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    told = done("new", kind, "grey_tone")
    assert told.splitlines()[0] == "wrote grey_tone.py and test_grey_tone.py"
    assert {*contents(tmp_path)} == {"grey_tone.py", "test_grey_tone.py"}
    assert words_of(tmp_path / "grey_tone.py").origins[0].said == [f"{kind} grey_tone"]
    spec = importlib.util.spec_from_file_location(f"written_{kind}", tmp_path / "test_grey_tone.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) >= 2
    for number, test in enumerate(tests):
        (tmp_path / str(number)).mkdir()
        test(**({"tmp_path": tmp_path / str(number)} if inspect.signature(test).parameters else {}))


def test_the_commands_it_names_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("op", "relation", "head"):
        path, _ = write_new(kind, f"my_{kind}")
        lines = [line.strip() for line in path.read_text().splitlines() if line.startswith("    manyview ")]
        assert lines
        for line in lines:
            overrides = [word for word in shlex.split(line)[3:] if "=" in word]
            assert manyview.load_recipe(shlex.split(line)[2], *overrides, use=path)


TAKEN = "manyview has one of that name already; give yours another"
NO_NAME = "cannot be a name; take a word that Python and PyTorch leave free"
THERE = "is there already; choose another --out, or move it away"


def test_what_it_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("there.py", "test_hollow.py"):
        (tmp_path / name).write_text("x = 1\n")
    before = contents(tmp_path)
    for words, message in {
        "opp fine": "unknown kind of word 'opp'; did you mean 'op'? kinds: head, op, protocol, relation, source",
        "op crop": f"new op crop: {TAKEN}",
        "head pool": f"new head pool: {TAKEN}",
        "protocol top1": f"new protocol top1: {TAKEN}",
        "op my-op": f"new op: 'my-op' {NO_NAME}",
        "op class": f"new op: 'class' {NO_NAME}",
        "relation update": f"new relation: 'update' {NO_NAME}",
        "op there": f"there.py {THERE}",
        "op hollow": f"test_hollow.py {THERE}",
        "op fine --out fine.txt": "--out fine.txt: words stand in a Python file, NAME.py",
    }.items():
        assert one_line(*command("new", *words.split())) == message
    assert contents(tmp_path) == before


def test_out_names_the_file(tmp_path):
    told = done("new", "op", "speckle", "--out", tmp_path / "deep" / "words.py")
    assert "wrote" in told
    assert words_of(tmp_path / "deep" / "words.py").origins[0].said == ["op speckle"]
    assert (tmp_path / "deep" / "test_words.py").is_file()
