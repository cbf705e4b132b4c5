"""To choose and to claim: what is read, what is written, and which seeds may do which."""

import json
import re
import shutil

import numpy as np
import pytest
from scipy import stats

from commands import contents, manyview, one_line
from manyview.compare.chosen import note_choosing
from manyview.compare.compare import compare
from manyview.compare.plan import plan_comparison
from manyview.data.images import ArrayImages
from manyview.errors import RunError


@pytest.fixture(scope="module")
def chosen(recipes, tmp_path_factory):
    """A folder of comparisons with one that chose, `choose`, by seeds 3 and 4."""
    top = tmp_path_factory.mktemp("comparisons")
    compare([recipes["two"], recipes["one"]], top / "choose", seeds=2, first_seed=3, split="val", quiet=True)
    return top


def test_under_val_no_figure_of_test_is_written(chosen):
    folder = chosen / "choose"
    for path in folder.rglob("result.json"):
        result = json.loads(path.read_text())
        assert result["eval_split"] == "val"
        assert result["eval"] == result["val"]
        assert [*result["n"]] == ["val"]
    assert {path.name for path in folder.rglob("*.safetensors")} == {"val.safetensors"}
    written = json.loads((folder / "compare.json").read_text())
    assert written["split"] == "val"
    assert "test is left unread" in written["data"]
    for entry in written["recipes"]:
        for seed in ("3", "4"):
            assert written["table"]["top1"][entry["name"]]["values"][seed] == entry["runs"][seed]["val"]["top1"]
    assert "for choosing a setting, not for a claim" in (folder / "compare.md").read_text()
    assert "--first-seed 3 --split val" in written["command"]


def test_under_val_no_test_image_is_read(recipes, tmp_path, monkeypatch):
    from manyview.data.sources import open_raw
    from manyview.load import load_recipe

    sealed = load_recipe(recipes["two"], "data.test=false")
    count = len(open_raw(sealed.data).train)
    read = ArrayImages.read_many
    seen = []

    def reading(self, positions):
        seen.extend(self.index[positions].tolist())
        return read(self, positions)

    monkeypatch.setattr(ArrayImages, "read_many", reading)
    compare([recipes["two"], recipes["one"]], tmp_path / "out", seeds=1, split="val", quiet=True)
    from manyview.data import open_splits

    tested = {*open_splits(load_recipe(recipes["two"]).data, 0).test.index.tolist()}
    assert seen
    assert tested.isdisjoint(seen)
    assert len(tested) < count


@pytest.mark.parametrize(
    ("first", "seeds", "told"),
    [(3, 2, "seeds 3, 4"), (2, 2, "seed 3 "), (0, 5, "seeds 3, 4"), (4, 3, "seed 4 ")],
)
@pytest.mark.parametrize("out", ["choose", "claim"])
def test_seeds_that_chose_do_not_claim_in_any_folder_beside(chosen, recipes, first, seeds, told, out):
    before = contents(chosen)
    arguments = ("compare", recipes["two"], recipes["one"], "--seeds", seeds, "--first-seed", first)
    line = one_line(*manyview(*arguments, "--out", chosen / out))
    assert told in line
    assert "chose on validation in" in line
    assert "they cannot claim on test" in line
    assert re.search(r"--first-seed (\d+)", line)[1] == str(max(5, first + seeds))
    assert contents(chosen) == before


def test_other_seeds_claim_and_other_data_are_not_concerned(chosen, recipes, tmp_path):
    arguments = ("compare", recipes["two"], recipes["one"], "--seeds", 1)
    code, out, err = manyview(*arguments, "--first-seed", 5, "--out", chosen / "claim", "--only", "nobody")
    assert (code, out) == (2, "")
    assert "unknown recipe 'nobody'" in err  # and nothing of seeds
    shutil.copytree(chosen / "choose", tmp_path / "choose")
    noted = json.loads((tmp_path / "choose" / "choosing.json").read_text())
    assert noted["seeds"] == [3, 4]
    (tmp_path / "choose" / "choosing.json").write_text(json.dumps({**noted, "data": "cifar10, 10 classes (x)"}))
    written = compare([recipes["two"], recipes["one"]], tmp_path / "claim", seeds=1, first_seed=3, quiet=True)
    assert written["split"] == "test"


def test_what_was_measured_on_test_does_not_choose(compared, recipes, tmp_path):
    shutil.copytree(compared[0], tmp_path / "out")
    before = contents(tmp_path)
    line = one_line(
        *manyview("compare", recipes["two"], recipes["one"], "--seeds", 2, "--split", "val", "--out", tmp_path / "out")
    )
    assert "was measured on test, and this comparison reads val: what chooses does not claim" in line
    assert contents(tmp_path) == before


def test_what_claimed_before_its_seed_chose_is_shown_again_and_nothing_more_claims(compared, recipes, tmp_path):
    shutil.copytree(compared[0], tmp_path / "out")
    texts = [recipes[name] for name in ("two", "one", "sla")]
    source = plan_comparison(texts, tmp_path / "out", seeds=2).source
    note_choosing(tmp_path / "choose", source, [0, 1, 2])
    again = plan_comparison(texts, tmp_path / "out", seeds=2)
    assert again.told[0].startswith("2 seeds (0, 1) chose on validation in ")
    assert again.told[0].endswith(", too: a claim only if that was after it.")
    with pytest.raises(RunError, match="seed 2 chose on validation in"):
        plan_comparison(texts, tmp_path / "out", seeds=3)
    with pytest.raises(RunError, match="seeds 0, 1 chose on validation in"):
        plan_comparison(texts, tmp_path / "another", seeds=2)


def test_the_best_of_five_alike_is_ahead_too_often_on_the_seeds_that_chose_it():
    """Luck of a run, on both splits alike, of deviation 1; of validation images 0.5, of test images 0.3."""
    drawn = np.random.default_rng(0)

    def measured(count):
        luck = drawn.normal(0, 1, (8000, count, 5))
        return luck + drawn.normal(0, 0.5, luck.shape), luck + drawn.normal(0, 0.3, luck.shape)

    def ahead(difference):
        return np.mean(stats.ttest_1samp(difference, 0.0, axis=1, alternative="greater").pvalue < 0.025)

    val, test = measured(6)
    best = val[:, 1:].mean(axis=2).argmax(axis=1) + 1
    assert ahead(test[np.arange(8000), best] - test[:, 0]) == pytest.approx(0.065, abs=0.01)
    assert ahead(np.subtract(*measured(2)[1].swapaxes(0, 1))) == pytest.approx(0.025, abs=0.006)


def test_a_damaged_note_is_told(chosen, recipes, tmp_path):
    (tmp_path / "choose").mkdir()
    for text in ("{", "[1]", '{"data": "x"}', '{"data": "x", "seeds": ["y"]}'):
        (tmp_path / "choose" / "choosing.json").write_text(text)
        with pytest.raises(RunError, match=r"choosing.json is damaged: .*it says by which seeds was chosen"):
            compare([recipes["two"], recipes["one"]], tmp_path / "claim", seeds=1, quiet=True)
