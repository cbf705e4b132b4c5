"""Completion: what the shell offers, and that nothing heavy is loaded for it."""

import json
import os
import subprocess
import sys

from manyview.cli.complete import MOST_LOOKED_AT, recipe_names, run_folders
from manyview.recipe.find import packaged_recipes
from test_swift import HEAVY

CALLS = """
import contextlib, io, json, os, sys
from manyview.cli import main
told = []
for words in json.loads(sys.argv[1]):
    os.environ.update(_MANYVIEW_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    sys.argv = ["manyview"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as left:
            told.append([left.code, out.getvalue().split()])
print(json.dumps([told, [*sys.modules]]))
"""


def run(folder):
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("")
    return folder


def test_the_shell_is_offered_commands_recipes_and_runs_without_torch(tmp_path):
    run(tmp_path / "runs" / "first")
    run(tmp_path / "runs" / "both" / "runs" / "tied" / "seed-0")
    asked = {
        "manyview pred": ["predict"],
        "manyview train qui": ["quickstart"],
        "manyview plan tied_cifar10_": [name for name in packaged_recipes() if name.startswith("tied_cifar10_")],
        "manyview predict r": ["runs/both/runs/tied/seed-0", "runs/first"],
        "manyview train --resume runs/f": ["runs/first"],
        "manyview eval runs/b": ["runs/both/runs/tied/seed-0"],
        "manyview recipes simclr_di": ["simclr_digits"],
        "manyview compare quickstart simclr_di": ["simclr_digits"],
        "manyview export --q": ["--quiet"],
    }
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps([*asked])], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told, loaded = json.loads(done.stdout)
    for (words, expected), (code, offered) in zip(asked.items(), told, strict=True):
        assert (code, sorted(offered)) == (0, sorted(expected)), words
    assert not {*loaded} & {*HEAVY.split()}


def test_runs_are_offered_as_they_are_typed(tmp_path, monkeypatch):
    run(tmp_path / "a run=1")
    run(tmp_path / "a run=1" / "within")
    run(tmp_path / ".hidden")
    (tmp_path / "a file").write_text("")
    assert run_folders(f"{tmp_path}/") == [f"{tmp_path}/a run=1"]
    assert run_folders(f"{tmp_path}/b") == run_folders(f"{tmp_path}/missing/") == []
    monkeypatch.chdir(tmp_path)
    assert run_folders("") == run_folders("a ") == ["a run=1"]
    assert run_folders("./a") == ["./a run=1"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folders("~/a") == ["~/a run=1"]


def test_nobody_waits_for_folders_of_images(tmp_path, monkeypatch):
    run(tmp_path / "z")
    looked = []
    scandir = os.scandir

    def counted(path):
        looked.append(path)
        return scandir(path)

    for number in range(30):
        (tmp_path / "images" / f"{number}" / "deep" / "deeper" / "deepest").mkdir(parents=True)
    monkeypatch.setattr("os.scandir", counted)
    monkeypatch.setattr("manyview.cli.complete.MOST_LOOKED_AT", 20)
    assert run_folders(f"{tmp_path}/") == [f"{tmp_path}/z"], "what lies near is looked at first"
    assert len(looked) <= 20
    assert MOST_LOOKED_AT >= 1_000


def test_recipes_by_their_beginning():
    assert recipe_names("quick") == ["quickstart"]
    assert recipe_names("") == [*packaged_recipes()]
    assert recipe_names("mine.y") == []
