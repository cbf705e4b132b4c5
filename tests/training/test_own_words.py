"""Words of one file: trained with, killed, resumed, judged, asked and replayed; a run keeps them and asks for them."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import own_words
from commands import done, manyview, one_line
from killed import assert_same_run, complete, kill_after, newest_step
from manyview import load_recipe, parse_recipe
from manyview.data import open_splits
from manyview.errors import ManyviewWarning
from manyview.foundation.files import read_state
from manyview.show.sheet import contact_sheet
from manyview.training.run import Run
from manyview.training.train import train

pytestmark = pytest.mark.slow(reason="runs are killed and resumed in processes of their own")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A words file, a recipe that names them, and the run that nothing happened to."""
    folder = tmp_path_factory.mktemp("words")
    own_words.written(folder)
    (folder / "recipe.yaml").write_text(own_words.RECIPE)
    assert complete(folder / "run", folder / "recipe.yaml", "--use", str(folder / "words.py")) == 0
    return folder


def test_killed_and_resumed_bit_for_bit(folder, tmp_path):
    given = (folder / "recipe.yaml", "--use", str(folder / "words.py"))
    kill_after(tmp_path / "run", 7, *given)
    assert (
        6 <= read_state(tmp_path / "run" / "checkpoints" / "last.pt")["run"]["number"] <= newest_step(tmp_path / "run")
    )
    kept = str(tmp_path / "run" / "words" / "words.py")
    assert complete(tmp_path / "run", folder / "recipe.yaml", "--use", kept, "--resume") == 0  # its own copy will do
    assert_same_run(tmp_path / "run", folder / "run")
    state = read_state(tmp_path / "run" / "checkpoints" / "last.pt")["step"]
    assert int(state["relations.pull.seen"]) == 16
    assert state["relations.pull.kept"].abs().sum(dim=1).all()


def test_workers_see_the_same(folder, tmp_path):
    given = (folder / "recipe.yaml", "--use", str(folder / "words.py"), "data.workers=2", "data.render=workers")
    assert complete(tmp_path / "run", *given) == 0
    runs = [read_state(path / "checkpoints" / "last.pt")["step"] for path in (tmp_path / "run", folder / "run")]
    assert all(torch.equal(runs[0][name], value) for name, value in runs[1].items())


def test_what_a_run_keeps(folder):
    run = folder / "run"
    assert (run / "words" / "words.py").read_bytes() == (folder / "words.py").read_bytes()
    (kept,) = json.loads((run / "words" / "words.json").read_text())
    assert kept["adds"] == ["op speckle", "relation pull", "head squash", "source stripes", "protocol centroids"]
    result = json.loads((run / "result.json").read_text())
    assert result["words"] == {"words.py": kept["digest"]}
    assert result["eval"]["centroids"] > 40


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("1 / 0", "centroids(images=1000): WORDS, line LINE, in measure: ZeroDivisionError: division by zero"),
        ("{}", "centroids(images=1000): measure gives a Report of numbers by name, got {}"),
        ('Report({"": "much"})', "centroids(images=1000): measure gives a Report of numbers by name, got {'': 'much'}"),
        (
            'Report({"": 1.0}, each={"predicted": [1]})',
            "centroids(images=1000): each of a Report is arrays of numbers by name, got {'predicted': [1]}",
        ),
    ],
)
def test_a_protocol_that_fails_does_not_cost_a_run_its_end(tmp_path, new, message):
    text = own_words.ALL.replace('return Report({""', f'return {new}\n        return Report({{""')
    words = own_words.written(tmp_path, text)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if new in each)
    recipe = parse_recipe(own_words.RECIPE, "train.epochs=1", use=words)
    with pytest.warns(ManyviewWarning, match="not measured"):
        result = train(recipe, tmp_path / "run", quiet=True)
    expected = message.replace("WORDS", str(words)).replace("LINE", str(line))
    assert result["not_measured"] == {
        "centroids(images=1000)": expected.replace("centroids:", "centroids(images=1000):")
    }
    assert "top1" in result["eval"]


def test_words_that_a_recipe_does_not_name_are_not_kept(folder, tmp_path):
    recipe = load_recipe("quickstart", "train.steps=1", "data.limit=32", "train.batch_size=16", use=folder / "words.py")
    train(recipe, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "words").exists()
    assert Run(tmp_path / "run").recipe() == load_recipe("quickstart", *(
        f"{key}={value}" for key, value in {"train.steps": 1, "data.limit": 32, "train.batch_size": 16}.items()
    ))  # fmt: skip


def asked(folder, run):
    """Commands on a run that need its words."""
    picture = folder / "x.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(picture)
    return {
        "eval": ["eval", run],
        "predict": ["predict", run, picture],
        "replay": ["replay", run, "--index", 3, "--epoch", 1, "--out", folder / "seen.png"],
        "export": ["export", run, folder / "export"],
        "resume": ["train", folder / "recipe.yaml", "--resume", "--out", run],
    }


@pytest.mark.parametrize("command", ["eval", "predict", "replay", "export"])
def test_code_is_never_loaded_from_a_run_unasked(folder, command):
    run = folder / "run"
    told = one_line(*manyview(*asked(folder, run)[command]))
    assert told == (
        f"{run} was made with words of its own (words.py: op speckle, relation pull, head squash, source stripes, "
        f"protocol centroids); give them: --use {run}/words/words.py"
    )


def test_judged_asked_and_replayed(folder):
    run, use = folder / "run", ("--use", folder / "run" / "words" / "words.py")
    commands = asked(folder, run)
    assert "centroids" in done(*commands["eval"], "centroids(images=5)", "--split", "test", *use)
    assert "centroids(images=5) on test" in json.loads((run / "result.json").read_text())["evaluations"]
    assert done(*commands["predict"], *use).split("\t")[1] in ("two", "three", "four")
    done(*commands["replay"], *use)
    recipe = load_recipe(folder / "recipe.yaml", use=folder / "words.py")
    images = open_splits(recipe.data, recipe.seed).train
    position = images.index.tolist().index(3)
    name = f"{images.name(position)}\nindex 3, epoch 1"
    expected = contact_sheet(recipe, images.read(position)[None], [name], [3], 1, [0])
    assert np.array_equal(np.asarray(Image.open(folder / "seen.png")), np.asarray(expected))


def test_other_words_are_refused_where_it_must_be_exact_and_told_elsewhere(folder, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    other = own_words.written(tmp_path, own_words.ALL.replace("0.0, self.strength)", "0.1, self.strength)"))
    commands = asked(folder, run)
    told = f"{run} was made with another words.py than {other}; its own: --use {run}/words/words.py"
    for command in ("replay", "resume"):
        assert one_line(*manyview(*commands[command], "--use", other)) == told
    code, out, err = manyview(*commands["predict"], "--use", other)
    assert (code, err) == (0, f"manyview: warning: {told}\n")
    assert out
    monkeypatch.chdir(other.parent)  # where both have one name
    assert f"was made with another {other.name} than the one given; its own: " in one_line(
        *manyview(*commands["replay"], "--use", other.name)
    )


def test_another_file_beside_is_no_matter(folder, tmp_path):
    protocol = own_words.IMPORTS + own_words.CENTROIDS + 'PROTOCOLS = {"means": Centroids}\n'
    use = ("--use", folder / "words.py", "--use", own_words.written(tmp_path, protocol))
    assert "means" in done("eval", folder / "run", "means", *use)
    assert "is finished" in done(*asked(folder, folder / "run")["resume"], *use)


def test_a_damaged_list_is_one_line(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    kept = '[{"name": "words.py", "digest": "0", "adds": %s, "file": "%s"}]'
    for text in (
        "{",
        "[1]",
        '[{"nme": 1}]',
        kept % ("[1]", "words.py"),
        kept % ("1", "words.py"),
        kept % ("[]", "../w.py"),
    ):
        (run / "words" / "words.json").write_text(text)
        told = one_line(*manyview(*asked(folder, run)["predict"], "--use", folder / "words.py"))
        assert told.startswith(f"{run}/words/words.json is damaged: ")


def test_a_comparison_and_its_continuation(folder, tmp_path):
    other = tmp_path / "without.yaml"
    other.write_text(own_words.RECIPE.replace(" | speckle(0.2)", ""))
    words = ["compare", folder / "recipe.yaml", other, "--seeds", 1, "--out", tmp_path / "both", "train.epochs=1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = done(*words, "--use", folder / "words.py")
        assert "seed 0" in first
        assert (tmp_path / "both" / "runs" / "without" / "seed-0" / "words" / "words.py").is_file()
        assert "2 of 2 runs ended before" in done(*words, "--use", folder / "words.py")
    assert "unknown op 'speckle'" in one_line(*manyview(*words))
