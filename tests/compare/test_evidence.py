"""The tables of docs/evidence.md from raw lines: a row recomputed by hand, the page as the command makes it."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from manyview.compare.ledger import read_lines
from manyview.load import load_recipe

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "benchmarks" / "evidence"
PAGE = ROOT / "docs" / "evidence.md"


@pytest.fixture(scope="module")
def tables():
    """The script, whose folder is on the path as if it were run."""
    sys.path.insert(0, str(EVIDENCE))
    try:
        yield importlib.import_module("tables")
    finally:
        sys.path.remove(str(EVIDENCE))


def line(setting, arm, seed, value, split="test"):
    measures = {"top1": value, "loss": 2 - value / 100}
    return {"setting": setting, "recipe": arm, "seed": seed, "split": split, "measures": measures, "mark": "m"}


@pytest.fixture(scope="module")
def lines():
    drawn = np.random.default_rng(4)
    luck = drawn.normal(0, 1, 12)
    made = [
        line("small", arm, seed, 40 + shift + luck[seed] + drawn.normal(0, 0.5))
        for arm, shift in {"two_views": 0.0, "one_view": 0.8, "tied_mse": 2.0, "jsd": 0.7}.items()
        for seed in range(12)
    ]
    made += [line("small/screen", arm, 200, 50.0, split="val") for arm in ("tied_mse", "jsd", "sla", "sam", "agmax")]
    return [*made, line("large", "sla", 0, 60.0)]


def row_by_hand(lines, setting, arm, baselines, screened):
    """(better baseline, n, mean, difference, its interval, p, p of the least by Holm), by NumPy and scipy alone."""
    of = {name: {each["seed"]: each["measures"]["top1"] for each in lines
                 if (each["setting"], each["recipe"], each["split"]) == (setting, name, "test")}
          for name in (arm, *baselines)}  # fmt: skip
    better = max(baselines, key=lambda name: np.mean(list(of[name].values())))
    values = np.array([of[arm][seed] for seed in sorted(of[arm])])
    pairs = np.array([of[arm][seed] - of[better][seed] for seed in sorted(of[arm]) if seed in of[better]])
    half = stats.t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / math.sqrt(len(pairs))
    p = stats.ttest_1samp(pairs, 0).pvalue
    return better, len(values), values.mean(), pairs.mean(), pairs.mean() - half, pairs.mean() + half, p, p * screened


def test_a_row_is_what_its_raw_lines_say(tables, lines):
    made = tables.rows(lines, "small")
    assert [row.arm for row in made] == ["one_view", "two_views", "tied_mse", "jsd"]
    better, n, mean, difference, low, high, _, least = row_by_hand(lines, "small", "tied_mse", tables.BASELINES, 5)
    row = made[2]
    assert better == "one_view"
    assert (row.found.n, row.found.mean) == (n, pytest.approx(difference))
    assert row.found.t == pytest.approx((low, high))
    assert row.p_holm == pytest.approx(least)
    jsd = row_by_hand(lines, "small", "jsd", tables.BASELINES, 4)
    assert made[3].p_holm == pytest.approx(max(least, min(1, jsd[-1])))
    (text,) = [each for each in tables.text(lines).splitlines() if each.startswith("| tied_mse")]
    assert f"| {n} | {mean:.2f} ± " in text
    assert f"| {difference:+.2f} | {low:+.2f} to {high:+.2f} |" in text
    assert made[0].found is None
    assert made[1].p_holm is None  # the other baseline is no arm


def test_what_has_no_baseline_and_what_chose_are_no_table(tables, lines):
    assert tables.settings(lines) == ["small", "large"]
    assert tables.rows(lines, "large") == []
    assert "### large" not in tables.text(lines)
    assert "p is adjusted over 5 arms" in tables.text(lines)
    assert tables.text([]) == "No run has claimed yet."


def test_the_command_fills_a_page(tables, lines, tmp_path, monkeypatch):
    runs, page = tmp_path / "runs.jsonl", tmp_path / "evidence.md"
    runs.write_text("".join(json.dumps(each) + "\n" for each in lines))
    page.write_text(f"before\n\n{tables.BEGIN}\nold\n{tables.END}\n\nafter\n")
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["tables.py", "--runs", str(runs), "--page", str(page)])
        tables.main()
        assert page.read_text() == f"before\n\n{tables.BEGIN}\n\n{tables.text(lines)}\n\n{tables.END}\n\nafter\n"
    assert (tmp_path / "evidence_small.svg").read_text().rstrip().endswith("</svg>")
    assert not (tmp_path / "evidence_large.svg").exists()


def test_the_page_is_what_its_runs_say(tables):
    raw = read_lines(EVIDENCE / "runs.jsonl")
    page = PAGE.read_text(encoding="utf-8")
    assert f"{tables.BEGIN}\n\n{tables.text(raw)}\n\n{tables.END}" in page
    for setting in tables.settings(raw):
        for row in tables.rows(raw, setting)[1:]:
            expected = row_by_hand(raw, setting, row.arm, [tables.rows(raw, setting)[0].arm], 1)
            assert row.found.mean == pytest.approx(expected[3])


def test_no_seed_both_chose_and_claimed(tables):
    raw = read_lines(EVIDENCE / "runs.jsonl")
    seeds = {split: {(each["setting"].partition("/")[0], each["seed"]) for each in raw if each["split"] == split}
             for split in ("val", "test")}  # fmt: skip
    assert seeds["val"].isdisjoint(seeds["test"])
    phases = importlib.import_module("arms").PHASES
    taken = {name: {*range(each.first, each.first + each.seeds)} for name, each in phases.items()}
    chose = set.union(*(taken[name] for name, each in phases.items() if each.split == "val"))
    assert all(taken[name].isdisjoint(chose) for name, each in phases.items() if each.split == "test")


def test_every_arm_and_trial_is_a_recipe(tables):
    arms = importlib.import_module("arms")
    for name, overrides in arms.ARMS.items():
        tried = [*arms.trials(name).values()]
        assert len({*tried}) == 4
        recipe = load_recipe(str(EVIDENCE / "base.yaml"), *overrides, *tried[-1])
        assert recipe.relation_plan
        assert ("lr=0.1," in recipe.train.optimizer) == (name in arms.WEIGHTS)


def test_validation_chooses_trials_and_arms_by_the_rule(tables, tmp_path):
    run, chosen = importlib.import_module("run"), importlib.import_module("chosen")
    best = {"one_view": 2, "two_views": 0, "tied_mse": 3}
    lines = [
        line("small/tune", name, seed, 40 + (number == best[arm]) + seed % 2, split="val")
        for arm in best
        for number, name in enumerate(run.trials(arm))
        for seed in (100, 101)
    ]
    assert chosen.tuned(lines, "small", "one_view") == ("train.optimizer.lr=0.1",)
    assert chosen.tuned(lines, "small", "tied_mse") == (
        "train.optimizer.lr=0.1", "relations.similarity.weight=warmup(0.3)",
    )  # fmt: skip
    with pytest.raises(SystemExit, match="jsd is not tuned"):
        chosen.tuned(lines, "small", "jsd")
    with pytest.raises(SystemExit, match="has no result of seed 101"):
        chosen.tuned(lines[:-1], "small", "tied_mse")
    shifts = {"two_views": 0.0, "one_view": 1.0, "tied_mse": 1.5, "jsd": 0.6, "sla": 0.4, "sam": 2.5}
    lines += [
        line("small/screen", arm, seed, 40 + shift, split="val")
        for arm, shift in shifts.items()
        for seed in range(200, 205)
    ]
    assert chosen.going_on(lines, "small", "claim") == ["tied_mse", "jsd", "sam"]
    assert chosen.going_on(lines, "small", "claim_close") == ["tied_mse", "jsd"]
    runs = tmp_path / "runs.jsonl"
    runs.write_text("".join(json.dumps(each) + "\n" for each in lines))
    made = run.recipes("small", "screen", ["tied_mse"], runs)
    assert [*made] == ["two_views", "one_view", "tied_mse"]
    assert made["one_view"][-1] == "train.optimizer.lr=0.1"
