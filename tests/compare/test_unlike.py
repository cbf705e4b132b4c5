"""What is told before a comparison: unlike networks, tuning and augmentations, unequal cost, what a seed changes."""

from pathlib import Path

import pytest

from manyview.compare.budget import Length
from manyview.compare.comparison import Entry
from manyview.compare.plan import plan_comparison
from manyview.compare.runs import time_left
from manyview.errors import RunError
from manyview.load import load_recipe
from manyview.relations.cosine import Cosine


def planned(texts, *overrides, **settings):
    return plan_comparison(texts, Path("nowhere"), seeds=2, overrides=overrides, **settings)


def told(made, begins):
    return [line for line in made.told if line.startswith(begins)]


def test_a_recipe_against_itself_with_other_relations_differs_in_nothing_else(recipes):
    made = planned(
        [recipes["two"], f"{recipes['two']}@once"], "once:relations=['cross_entropy(logits(a))']", budget="images"
    )
    assert [entry.name for entry in made.entries] == ["two", "once"]
    assert told(made, "once differs") == []
    assert made.entries[0].recipe.relations != made.entries[1].recipe.relations


def test_networks_tuning_and_augmentations_that_differ_are_told_one_by_one(recipes):
    made = planned(
        [recipes["two"], recipes["one"]],
        "one:branches.net.backbone=cresnet32",
        "one:branches.net.normalize=none",
        "one:train.optimizer.lr=0.1",
        "one:views.a.make=pad_crop(8, padding=1) | cutout(2)",
        "one:train.ema=0.9",
        "train.log_every=3",
        budget="images",
    )
    (line,) = told(made, "one differs")
    for part in (
        "network: cresnet20() -> cresnet32();",
        "normalize: half -> none",
        "train.batch_size: 24 -> 16",
        "train.optimizer.lr: 0.05 -> 0.1;",
        "train.ema: None -> 0.9",
        "augmentation: without flip(), with cutout(size=2)",
    ):
        assert part in line, line
    assert "log_every" not in line
    assert "train.steps" not in line


def test_recipes_that_differ_in_the_same_settings_share_a_line_and_what_is_the_same_is_not_shown(recipes):
    texts = [recipes["two"], *(f"{recipes['two']}@{name}" for name in ("a", "b", "c", "d"))]
    said = "train.optimizer=sgd(momentum=0.9, weight_decay=0.0000000000005, dampening=0, nesterov=True, lr"
    changes = [f"two:{said}=0.05)", f"a:{said}=0.1)", f"b:{said}=0.2)", f"c:{said}=0.1)"]
    made = planned(texts, *changes, "d:train.ema=0.9", "d:train.checkpointing=true", budget="images")
    many, last = [line for line in made.told if " differ" in line]
    assert many == (
        "a, b, c differ from two in more than relations and views, which may be what is measured: "
        "train.optimizer.lr: 0.05 -> 0.1 (a, c), 0.05 -> 0.2 (b)."
    )
    assert last.startswith("d differs from two in more than")
    assert "train.optimizer.nesterov: True -> default; " in last
    assert last.endswith("; train.ema: None -> 0.9.")
    (line,) = told(made, "Computed again")
    assert line == (
        "Computed again to save memory, and not counted as operations or passes, but in seconds: "
        "d (train.checkpointing)."
    )


def test_what_costs_more_is_told_and_flops_make_it_equal(recipes):
    texts = [recipes["teacher"], f"{recipes['teacher']}@plain"]
    plain = "plain:relations=['cosine(p(a), toward=stop(z(b)), swapped=True)']"
    by_forwards = planned(texts, plain)
    (line,) = told(by_forwards, "The cost is not equal")
    teacher, other = (entry.length for entry in by_forwards.entries)
    assert (teacher.rows_per_image, other.rows_per_image) == (4, 2)
    assert f"plain {other.flops / teacher.flops:.2f} times" in line
    assert other.flops / teacher.flops > 1.4  # a teacher's pass is a third of a trained one
    made = planned(texts, plain, budget="flops")
    teacher, other = (entry.length for entry in made.entries)
    assert other.flops / teacher.flops == pytest.approx(1, abs=0.5 / other.steps)
    assert told(made, "The cost is not equal") == []


def test_flops_that_cannot_be_counted_are_refused_where_they_are_the_budget(recipes, monkeypatch):
    look = Cosine.forward

    def asking(self, *args, **kwargs):
        found = look(self, *args, **kwargs)
        return found if float(found.detach()) < 9 else -found

    monkeypatch.setattr(Cosine, "forward", asking)
    texts = [recipes["teacher"], f"{recipes['teacher']}@other"]
    made = planned(texts, "train.accumulate=2", budget="images")
    assert [entry.length.flops for entry in made.entries] == [None, None]
    with pytest.raises(RunError, match=r"^--budget flops: recipe teacher: its operations cannot be counted"):
        planned(texts, "train.accumulate=2", budget="flops")


def test_what_a_seed_changes_is_said(recipes):
    both = [recipes["two"], recipes["one"]]
    (line,) = told(planned(both), "2 seeds (0 to 1)")
    assert line.startswith("2 seeds (0 to 1). A seed changes which images train, which validate, ")
    assert "data.seed=0 would give all the same images" in line
    assert "draws pair by the names of views" in line
    made = planned(both, "data.seed=0")
    (line,) = told(made, "2 seeds (0 to 1)")
    assert line.startswith("2 seeds (0 to 1). A seed changes their order, the draws of views, initial weights; ")
    assert "is a matter of data.seed=0, the same for all" in line


def test_the_primary_measure_is_said_before(recipes):
    both = [recipes["two"], recipes["one"]]
    assert told(planned(both), "Primary")[0] == (
        "Primary measure: top-1 on test (the usual one; --measure names another). All other measures are exploratory."
    )
    assert "kNN on val (named by --measure)" in told(planned(both, measure="knn", split="val"), "Primary")[0]


def test_unlike_numbers_of_checkpoints_and_aggregated_scores_mean_the_last_for_all(recipes):
    alike = planned([recipes["two"], f"{recipes['two']}@other"])
    assert [entry.recipe.train.keep for entry in alike.entries] == [None, None]
    assert told(alike, "Of every run") == []
    made = planned([recipes["two"], recipes["one"]])
    assert [entry.recipe.train.keep for entry in made.entries] == ["last", "last"]
    (line,) = told(made, "Of every run the last checkpoint is taken")
    assert "(two 2, one 5)" in line
    assert told(planned([recipes["two"], recipes["one"]], "train.keep=last"), "Of every run") == []
    rotated = planned([recipes["sla"], f"{recipes['sla']}@other"])
    assert "scores of sla, other are aggregated, too" in told(rotated, "Of every run")[0]


def test_scores_over_several_views_are_of_all_or_of_none(recipes):
    (line,) = told(planned([recipes["two"], recipes["sla"]]), "Scores averaged")
    assert line.startswith("Scores averaged over views are of sla alone, cost several passes a prediction")
    assert told(planned([recipes["sla"], f"{recipes['sla']}@other"]), "Scores averaged") == []
    both = [recipes["two"], recipes["one"]]
    mirror = """evaluate=["aggregate(orbit='mirror')"]"""
    assert told(planned(both, mirror), "Scores averaged") == []
    assert "of one alone" in told(planned(both, f"one:{mirror}"), "Scores averaged")[0]
    with pytest.raises(RunError, match=r"unknown measure 'aggregated_top1'.* \(recipe two\)"):
        planned([recipes["two"], recipes["sla"]], measure="aggregated_top1")


def entry(name, flops, steps=10):
    return Entry(name, load_recipe("quickstart"), (), Length(steps, 5, 8, 2, flops), "cresnet20()", 7)


def test_the_time_left_goes_by_what_was_seen_then_by_operations():
    small, large = entry("small", 100), entry("large", 300)
    entries = [small, large]
    assert time_left(entries, [large], {}, 0.0) == 0.0
    assert time_left(entries, [], {"small": [10.0]}, 12.0) == 0.0
    assert time_left(entries, [large, small], {"small": [10.0]}, 10.0) == pytest.approx(40)
    assert time_left(entries, [large], {"small": [10.0], "large": [20.0, 22.0]}, 52.0) == pytest.approx(21)
    # what is beside training, and runs side by side
    assert time_left(entries, [small], {"small": [10.0]}, 15.0) == pytest.approx(15)
    assert time_left(entries, [small] * 4, {"small": [10.0] * 4}, 10.0) == pytest.approx(10)
    uncounted = [entry("small", None), entry("large", None, steps=30)]
    assert time_left(uncounted, [uncounted[1]], {"small": [10.0]}, 10.0) == pytest.approx(30)
