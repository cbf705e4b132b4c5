"""Comparisons: equal lengths, intervals, what is trained and what not again, and what is written of it."""

import json
import math
import os
import shutil
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import own_words
from commands import contents, manyview, one_line
from manyview.compare import budget
from manyview.compare.budget import Length, equal_steps, step_seconds
from manyview.compare.compare import compare
from manyview.compare.intervals import bootstrap_interval, paired, t_interval
from manyview.compare.plan import plan_comparison
from manyview.compare.write import command
from manyview.data import open_splits
from manyview.data.loader import Batches
from manyview.errors import ManyviewWarning, RunError
from manyview.load import load_recipe
from manyview.report.comparison import read as read_compared
from manyview.step import Step
from manyview.training.run import Run


def result(folder, name, seed) -> dict:
    return json.loads((folder / "runs" / name / f"seed-{seed}" / "result.json").read_text())


@pytest.fixture
def _few_steps(monkeypatch):
    """Times of no use, but soon had."""
    for name, value in {"ROUNDS": 1, "WARM_UP": 1, "TIMED": 2}.items():
        monkeypatch.setattr(budget, name, value)


# ------------------------------------------------------------------------------------------------------------- lengths


def test_every_budget_gives_the_steps_that_its_definition_says(recipes):
    def steps(asked, *overrides):
        texts = [recipes[name] for name in ("two", "one", "sla", "teacher")]
        made = plan_comparison(texts, Path("nowhere"), seeds=1, budget=asked, overrides=overrides, measure="knn")
        for entry in made.entries:  # what is told is what is trained
            assert (entry.recipe.train.steps or entry.recipe.train.epochs * (120 // entry.recipe.train.batch_size)) == (
                entry.length.steps
            )
        return {entry.name: (entry.length.steps, entry.length.images, entry.length.forwards) for entry in made.entries}

    # two: 2 epochs of 120 // 24 steps, two views each; one: batches of 16; sla: four rotations; teacher: two branches
    # look at two views
    assert steps("own") == {
        "two": (10, 240, 480), "one": (14, 224, 224), "sla": (10, 240, 960), "teacher": (10, 240, 960),
    }  # fmt: skip
    assert steps("images") == {
        "two": (10, 240, 480), "one": (15, 240, 240), "sla": (10, 240, 960), "teacher": (10, 240, 960),
    }  # fmt: skip
    assert steps("forwards") == {
        "two": (10, 240, 480), "one": (30, 480, 480), "sla": (5, 120, 480), "teacher": (5, 120, 480),
    }  # fmt: skip
    longer = steps("forwards", "two:train.epochs=3", "one:train.batch_size=32")
    assert longer == {"two": (15, 360, 720), "one": (23, 736, 736), "sla": (8, 192, 768), "teacher": (8, 192, 768)}


def test_moments_that_do_not_follow_a_new_length_are_told(recipes):
    """sla is given half of its own steps; what is said in parts of the run follows, and a warm-up is meant as it is."""

    def warned(schedule):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plan_comparison(
                [recipes["two"], recipes["sla"]], Path("nowhere"), seeds=1, overrides=[f"sla:train.schedule={schedule}"]
            )
        return [str(each.message) for each in caught if each.category is ManyviewWarning]

    told = warned("multistep(at=('4 steps',))")
    assert len(told) == 1
    assert told[0].startswith("recipe sla: the budget gives it 5 steps, not its own, and multistep(at=('4 steps',))")
    assert warned("multistep(at=(0.5,), warmup='2 steps')") == []
    assert warned("cosine(warmup='2 steps')") == []


def test_steps_are_rounded_to_the_nearest_and_at_least_one():
    reference = Length(steps=3, steps_per_epoch=3, images_per_step=10, rows_per_image=1)
    for batch in range(1, 100):
        for rows in (1, 3):
            steps = equal_steps(Length(1, 1, batch, rows), reference, "forwards")
            nearest = min(range(1, 60), key=lambda n: abs(n * batch * rows - 30))
            assert abs(steps * batch * rows - 30) == abs(nearest * batch * rows - 30)
    assert equal_steps(Length(1, 1, 10, 1), reference, "seconds", (0.5, 2.0)) == 12
    assert equal_steps(Length(1, 1, 10, 1), reference, "seconds", (100.0, 2.0)) == 1
    with pytest.raises(ValueError, match="budget is one of"):
        equal_steps(reference, reference, "seconds")


@pytest.mark.usefixtures("_few_steps")
def test_step_times_are_kept_and_a_new_recipe_is_timed_beside_the_reference(recipes, tmp_path):
    def load(*names):
        loaded = {name: load_recipe(recipes[name], "data.render=workers") for name in names}
        return {name: (recipe, Step(recipe, 10)) for name, recipe in loaded.items()}

    splits = open_splits(load_recipe(recipes["two"]).data, 0)
    path = tmp_path / "budget.json"
    first = step_seconds(path, load("two", "one"), splits)
    assert all(seconds > 0 for seconds in first.values())
    kept = path.read_bytes()
    assert step_seconds(path, load("two", "one"), splits) == first
    assert path.read_bytes() == kept
    stored = json.loads(kept)
    stored["two"]["seconds_per_step"] *= 1000  # as on a machine a thousand times slower
    path.write_text(json.dumps(stored))
    both = step_seconds(path, load("two", "sla"), splits)
    assert both["two"] == 1000 * first["two"]
    assert both["sla"] > 30 * first["two"]  # scaled by the reference, so that the ratio is that of one machine
    for damaged in ("{", "[1]", '{"two": 3}', '{"two": {"recipe": "x", "seconds_per_step": null}}'):
        path.write_text(damaged)
        with pytest.raises(RunError, match="damaged"):
            step_seconds(path, load("two", "one"), splits)


@pytest.mark.usefixtures("_few_steps")
def test_an_update_that_looks_twice_counts_twice(recipes, tmp_path):
    sharp = tmp_path / "sharp.yaml"
    sharp.write_text(Path(recipes["two"]).read_text().replace("sgd(lr=0.05, momentum=0.9)", "sam(sgd(lr=0.05))"))
    made = plan_comparison([recipes["two"], str(sharp)], tmp_path / "out", seeds=1)
    two, twice = (entry.length for entry in made.entries)
    assert (two.rows_per_image, twice.rows_per_image) == (2, 4)
    assert (two.steps, twice.steps) == (10, 5)
    assert two.forwards == twice.forwards

    recipe, looks = load_recipe(str(sharp)), []
    step = Step(recipe, 10)
    step.register_forward_hook(lambda *_: looks.append(1))
    budget.time_steps({"sharp": (recipe, step)}, open_splits(recipe.data, 0))
    assert (len(looks), step.updates) == (6, 3)


@pytest.mark.usefixtures("_few_steps")
def test_what_saves_memory_is_timed_as_it_is_trained(recipes):
    vit = "branches.net.backbone=test_vit(img_size=8, patch_size=4)"
    recipe = load_recipe(recipes["two"], vit, "train.micro_batch=5", "train.checkpointing=true", "train.epochs=10")
    splits = open_splits(recipe.data, 0)
    step = Step(recipe, len(splits.classes))
    budget.time_steps({"two": (recipe, step)}, splits)
    assert step.main.most == 5
    assert {block.forward.__name__ for block in step.main.backbone.blocks} == {"_forward"}


@pytest.mark.usefixtures("_few_steps")
def test_equal_seconds_gives_the_faster_recipe_more_steps(recipes, tmp_path):
    def plan():
        return plan_comparison(
            [recipes["sla"], recipes["one"]], tmp_path, seeds=1, budget="seconds", overrides=["train.batch_size=24"],
        )  # fmt: skip

    made = plan()
    speeds = {k: v["seconds_per_step"] for k, v in json.loads((tmp_path / "budget.json").read_text()).items()}
    steps = {entry.name: entry.length.steps for entry in made.entries}
    assert steps["sla"] == 10
    assert steps["one"] == max(1, math.floor(10 * speeds["sla"] / speeds["one"] + 0.5))
    assert plan() == made


# ----------------------------------------------------------------------------------------------------------- intervals


def test_intervals_equal_a_slow_reference():
    values = np.array([0.3, -0.1, 0.8, 0.4, 0.2])
    low, high = t_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    drawn = np.random.default_rng(5)
    means = sorted(sum(drawn.choice(values) for _ in values) / len(values) for _ in range(10_000))
    assert bootstrap_interval(values) == pytest.approx((means[250], means[9750]), abs=0.02)
    assert bootstrap_interval(values) == bootstrap_interval(values.copy())
    # two values: means of a pair are low, middle or high in 1, 2, 1 of 4 cases
    assert bootstrap_interval(np.array([1.0, 3.0])) == (1.0, 3.0)
    assert bootstrap_interval(np.full(4, 2.0)) == t_interval(np.full(4, 2.0)) == (2.0, 2.0)


def test_a_single_pair_has_no_interval():
    found = paired(np.array([0.5]))
    assert (found.n, found.mean, found.higher, found.bootstrap, found.t) == (1, 0.5, 1, None, None)


@pytest.mark.parametrize(("n", "bootstrap"), [(3, 0.72), (10, 0.90)])
def test_the_t_interval_covers_and_the_bootstrap_of_few_seeds_covers_too_little(n, bootstrap):
    drawn = np.random.default_rng(n).normal(1.5, 2.0, (1500, n))

    def coverage(interval):
        return np.mean([low < 1.5 < high for low, high in map(interval, drawn)])

    assert coverage(t_interval) == pytest.approx(0.95, abs=0.02)
    assert coverage(lambda values: bootstrap_interval(values, resamples=1000)) == pytest.approx(bootstrap, abs=0.035)


# ---------------------------------------------------------------------------------------------------------------- runs


def test_runs_of_one_seed_share_splits_and_the_order_of_images(compared):
    folder, _ = compared
    for seed in (0, 1):
        marks = [Run(folder / "runs" / name / f"seed-{seed}") for name in ("two", "one", "sla")]
        assert len({(run.folder / "splits.json").read_bytes() for run in marks}) == 1
        seen = []
        for run in marks:
            recipe = run.recipe()
            assert recipe.seed == seed
            batches = Batches(run.splits(recipe).train, recipe.train.batch_size, 120 // recipe.train.batch_size, seed)
            seen.append(np.concatenate([batches.positions(number)[1] for number in range(5)])[:80])
        assert (seen[0] == seen[1][: len(seen[0])]).all()
        assert (seen[0] == seen[2]).all()
    one, other = ((folder / "runs" / "two" / f"seed-{seed}" / "splits.json").read_bytes() for seed in (0, 1))
    assert one != other


def test_only_what_is_missing_is_trained(compared, recipes, tmp_path):
    finished, before = compared
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    missing = folder / "runs" / "one" / "seed-1"
    kept = {name: data for name, data in contents(folder / "runs").items() if not name.startswith("one/seed-1")}
    values = result(folder, "one", 1)["eval"]
    shutil.rmtree(missing)
    again = compare([recipes["two"], recipes["one"], recipes["sla"]], folder, seeds=2, quiet=True)
    after = contents(folder / "runs")
    assert {name: after[name] for name in kept} == kept
    assert result(folder, "one", 1)["eval"] == values
    assert again["table"] == before["table"]


def test_the_terminal_goes_by_t_and_the_command_that_is_kept_is_whole(compared, recipes, tmp_path):
    """Six seeds, the last four of which are copies: a bootstrap of six is too narrow, too."""
    folder = tmp_path / "out"
    shutil.copytree(compared[0], folder)
    for run in [*(folder / "runs").glob("*/seed-0")]:
        for seed in range(2, 6):
            again = run.with_name(f"seed-{seed}")
            shutil.copytree(run, again)
            text = (again / "recipe.yaml").read_text()
            (again / "recipe.yaml").write_text(text.replace("\nseed: 0\n", f"\nseed: {seed}\n"))
    code, out, err = manyview("compare", recipes["two"], recipes["one"], recipes["sla"], "--seeds", 6,
                              "--measure", "top1", "--out", folder)  # fmt: skip
    assert (code, err) == (0, "")
    assert "95 % t" in out
    assert "95 % bootstrap" not in out
    assert "--seeds 6 --measure top1 --budget forwards" in json.loads((folder / "compare.json").read_text())["command"]


def test_the_command_names_files_of_words(recipes, tmp_path):
    words = own_words.written(tmp_path)
    make = "two:views.a.make=pad_crop(8, padding=1) | speckle(0.1)"
    both = [recipes["two"], recipes["one"]]
    made = plan_comparison(both, tmp_path / "out", seeds=1, overrides=[make], use=[words])
    assert command(made).endswith(" --seeds 1 --use words.py --budget forwards --out OUT")


def test_processes_may_divide_the_recipes_and_the_last_tabulates(compared, recipes, tmp_path):
    texts = [recipes["two"], recipes["one"]]
    arguments = ("compare", *texts, "--seeds", 1, "--out", tmp_path, "--budget", "forwards")
    code, out, _ = manyview(*arguments, "--only", "one")
    assert code == 0
    assert "missing: two seed 0" in out
    assert not (tmp_path / "compare.json").exists()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one"}
    code, out, _ = manyview(*arguments, "--only", "two")
    assert code == 0
    assert "missing" not in out
    # the same run as in another comparison with another number of seeds
    assert result(tmp_path, "one", 0)["eval"] == result(compared[0], "one", 0)["eval"]
    assert json.loads((tmp_path / "compare.json").read_text())["table"]["top1"]["one"]["difference"]["t"] is None


def test_a_run_that_fails_is_told_of_and_the_others_go_on(recipes, tmp_path):
    arguments = ("compare", recipes["two"], recipes["one"], "one:train.optimizer.lr=1e30", "train.log_every=1")
    code, out, err = manyview(*arguments, "--seeds", 1, "--out", tmp_path)
    assert code == 2
    assert "1 of 2 runs failed: one seed 0" in err
    assert "one, seed 0: failed: " in out
    written = json.loads((tmp_path / "compare.json").read_text())
    assert [(failed["recipe"], failed["seed"]) for failed in written["failed"]] == [("one", 0)]
    assert "one" not in written["table"]["top1"]
    assert "| one | 0, 1 failed | – |" in (tmp_path / "compare.md").read_text()
    before = contents(tmp_path / "runs")
    code, out, _ = manyview(*arguments, "--seeds", 1, "--out", tmp_path)
    assert (code, contents(tmp_path / "runs")) == (2, before)  # it would fail again, to the bit


def test_ctrl_c_stops_all_and_the_same_command_continues(recipes, tmp_path):
    metrics = tmp_path / "runs" / "two" / "seed-0" / "metrics.jsonl"

    def interrupt():
        while not metrics.is_file() or not metrics.stat().st_size:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def run(epochs=200):
        texts = [recipes["two"], recipes["one"]]
        return compare(texts, tmp_path, seeds=1, overrides=[f"two:train.epochs={epochs}"], budget="own", quiet=True)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(RunError, match=r"^stopped in two, seed 0; the same command continues$"):
        run()
    assert not (tmp_path / "runs" / "one").exists()
    assert (metrics.parent / "checkpoints" / "last.pt").is_file()
    with pytest.raises(RunError, match=r"another recipe: train.epochs: 200 -> 2"):
        run(epochs=2)


# ------------------------------------------------------------------------------------------------------------- results


def test_the_files_hold_the_figures_of_the_runs(compared):
    folder, returned = compared
    written = json.loads((folder / "compare.json").read_text())
    assert written == returned
    assert (written["reference"], written["measure"], written["split"], written["seeds"]) == (
        "two",
        "top1",
        "test",
        [0, 1],
    )
    ends = {name: [result(folder, name, seed) for seed in (0, 1)] for name in ("two", "one", "sla")}
    reference = np.array([end["eval"]["top1"] for end in ends["two"]])
    text = (folder / "compare.md").read_text()
    for name, both in ends.items():
        values = np.array([end["eval"]["top1"] for end in both])
        score = written["table"]["top1"][name]
        assert score["mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert score["sd"] == pytest.approx(np.sqrt(((values - values.mean()) ** 2).sum()), rel=1e-9)  # n - 1 is 1
        assert f"{values.mean():.2f} ± {score['sd']:.2f}" in text
        entry = next(entry for entry in written["recipes"] if entry["name"] == name)
        assert entry["cost"]["seconds"] == pytest.approx(np.mean([end["seconds"] for end in both]))
        assert entry["length"]["steps"] == both[0]["steps"]
        assert entry["length"]["rows_per_image"] == both[0]["views_per_image"]
        assert entry["runs"]["1"]["eval"] == both[1]["eval"]
        assert f"| {entry['length']['forwards']:,} |" in text
        if name == "two":
            assert score["difference"] is None
            continue
        differences = values - reference
        assert score["difference"]["mean"] == pytest.approx(differences.mean(), rel=1e-9)
        assert score["difference"]["higher"] == (differences > 0).sum()
        assert score["difference"]["t"] == pytest.approx(t_interval(differences))
        assert f"{differences.mean():+.2f} | " in text
    assert set(written["table"]["aggregated_top1"]) == {"sla"}
    assert "aggregated top-1" in text.splitlines()[2]
    assert "go by the t interval" in text
    svg = (folder / "compare.svg").read_text()
    assert svg.startswith("<?xml")
    assert svg.rstrip().endswith("</svg>")


def test_a_report_finds_its_figures_and_its_runs(compared):
    folder, written = compared
    found = read_compared(folder)
    assert {name: shown(json.loads(score.model_dump_json())) for name, score in found.table["top1"].items()} == {
        name: shown(score) for name, score in written["table"]["top1"].items()
    }
    assert found.holm == written["holm"]
    runs = [Path(place["folder"]) for entry in written["recipes"] for place in entry["runs"].values()]
    assert [run.relative_to(folder) for _, _, run in found.folders(folder)] == runs
    assert [(entry.name, entry.cost.seconds) for entry in found.recipes] == [
        (entry["name"], entry["cost"]["seconds"]) for entry in written["recipes"]
    ]


def shown(score):
    """What a report shows of it: a p-value that is not adjusted is not."""
    difference = score["difference"] and {name: each for name, each in score["difference"].items() if name != "p"}
    return {**score, "difference": difference}


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["two"], "compare needs at least two recipes, got two"),
        (["two", "two"], "two recipes are named 'two'"),
        (["two", "two"], "two.yaml@other other:KEY=VALUE"),
        (["two"], "two.yaml@other other:KEY=VALUE"),
        (["two", "one@a/b"], "a recipe is called by letters, digits"),
        (["two", "one", "data.test=false"], "compare reads the test images where --split test asks for them"),
        (["two", "one", "--setting", "small"], "--setting names the lines in the file of --runs"),
        (["two", "quickstar"], "unknown recipe 'quickstar'; did you mean 'quickstart'?"),
        (["two", "nowhere/x.yaml"], "no recipe file nowhere/x.yaml"),
        (["two", "one", "seed=3"], "compare sets the seeds; use --seeds and --first-seed"),
        (["two", "one", "one:seed=3"], "compare sets the seeds"),
        (["two", "one", "tow:train.epochs=3"], "unknown recipe 'tow'; did you mean 'two'?"),
        (["two", "one", "one:train.epochs=3"], "the budget sets this length; use --budget own"),
        (["two", "one", "one:data.limit=60"], "not trained on the same data: data.limit: 120 -> 60"),
        (["two", "one", "one:data.limit=60", "--budget", "own"], "not trained on the same data"),
        (["two", "one", "one:evaluate=['knn(k=3)']"], "evaluate: knn has other settings in two than in one"),
        (["two", "one", "--seeds", "0"], "--seeds is at least 1"),
        (["two", "one", "--first-seed", "-1"], "--first-seed at least 0"),
        (["two", "one", "--measure", "top2"], "unknown measure 'top2'; did you mean 'top5'?"),
        (["two", "teacher", "--measure", "top1"], "unknown measure 'top1'; measures: knn (recipe teacher)"),
        (["two", "one", "--budget", "hours"], "unknown budget 'hours'"),
        (["two", "one", "budget=hours"], "unknown budget 'hours'"),
        (["two", "one", "budget=images", "--budget", "own"], "the budget is given twice: images, own"),
        (["two", "one", "--split", "train"], "unknown split 'train'"),
        (["two", "one", "--only", "tow"], "unknown recipe 'tow'; did you mean 'two'?"),
        (["two", "one", "data.val_fraction=0", "--split", "val"], "nothing was held out to compare on"),
        (["two", "teacher", "teacher:evaluate=[]"], "recipe teacher measures nothing"),
        (["two", "one", "one:train.schedule=cosine(warmup='99 steps')"], "recipe one: train.schedule: "),
        (["two", "one", "evaluate=['fewshot(shots=500)']"], "recipe two: evaluate: fewshot: 500 shots and a query "),
        (["two", "one", "one:views.a.make=pad_crop(99)"], "recipe one: "),
        (["two", "one", "one:train.micro_batch=4"], "recipe one: train.micro_batch: branches.net.backbone.bn1, "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_anything_is_written(recipes, tmp_path, arguments, message):
    told = one_line(*manyview("compare", *[recipes.get(text, text) for text in arguments], "--out", tmp_path / "out"))
    assert message in told
    assert not list(tmp_path.iterdir())


def test_runs_of_another_recipe_are_not_taken_for_this_one(compared, recipes):
    folder, _ = compared
    before = contents(folder)
    arguments = ("compare", recipes["two"], recipes["one"], recipes["sla"], "--seeds", 2, "--out", folder)
    told = one_line(*manyview(*arguments, "train.epochs=3"))
    assert "was made by another recipe: train.epochs: 2 -> 3" in told
    assert contents(folder) == before


def test_the_cure_of_names_is_what_can_be_said(recipes, tmp_path):
    two = recipes["two"]
    for arguments in ([two], [two, two], [f"{two}@same", f"{recipes['one']}@same"]):
        told = one_line(*manyview("compare", *arguments, "--out", tmp_path / "out"))
        assert f" {two} {two}@other other:KEY=VALUE" in told


def test_a_result_without_measures_is_damaged(compared, recipes, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(compared[0], folder)
    path = folder / "runs" / "one" / "seed-1" / "result.json"
    for text in ("{}", '{"eval": {}}'):
        path.write_text(text)
        told = one_line(
            *manyview("compare", *(recipes[each] for each in ("two", "one", "sla")), "--seeds", 2, "--out", folder)
        )
        assert told == f"{path} is damaged: it has no measures; without it, the same command measures the run anew"


@pytest.mark.parametrize("seconds", ["0", "-1", "NaN", "Infinity"])
def test_times_that_are_none_are_damaged(recipes, tmp_path, seconds):
    (tmp_path / "budget.json").write_text(f'{{"two": {{"recipe": "x", "seconds_per_step": {seconds}}}}}')
    with pytest.raises(RunError, match=r"budget.json is damaged: .* seconds a step; remove it, and the recipes are"):
        step_seconds(tmp_path / "budget.json", {}, None)


def test_a_file_is_no_folder(recipes, tmp_path):
    (tmp_path / "out").write_text("mine")
    told = one_line(*manyview("compare", recipes["two"], recipes["one"], "--out", tmp_path / "out"))
    assert "is a file; --out names a folder" in told
    assert (tmp_path / "out").read_text() == "mine"
