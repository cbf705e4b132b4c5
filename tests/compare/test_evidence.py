"""The tables of docs/evidence.md from raw lines: a row recomputed by hand, the page by its command, the rules."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from manyview.compare.ledger import mark_of, read_lines
from manyview.load import load_recipe
from scripts import BENCHMARKS, beside

ROOT = Path(__file__).parents[2]
EVIDENCE = BENCHMARKS / "evidence"
PAGE = ROOT / "docs" / "evidence.md"
BASELINES = ("two_views", "one_view")


@pytest.fixture(scope="module")
def tables():
    """The script, whose folder is on the path as if it were run."""
    with beside(EVIDENCE):
        yield importlib.import_module("tables")


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
    made += [line("small/screen", arm, 200, 50.0, split="val") for arm in ("tied_mse", "jsd", "sla", "two_views")]
    made += [line("small/tune", arm, 100, 50.0, split="val") for arm in ("sam.0", "sam.2", "agmax.1", "one_view.0")]
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
    better, n, mean, difference, low, high, _, least = row_by_hand(lines, "small", "tied_mse", BASELINES, 5)
    row = made[2]
    assert better == "one_view"
    assert (row.found.n, row.found.mean) == (n, pytest.approx(difference))
    assert row.found.t == pytest.approx((low, high))
    assert row.p_holm == pytest.approx(least)
    jsd = row_by_hand(lines, "small", "jsd", BASELINES, 4)
    assert made[3].p_holm == pytest.approx(max(least, min(1, jsd[-1])))
    text, screening = [each for each in tables.text(lines).splitlines() if each.startswith("| tied_mse")]
    assert screening.startswith("| tied_mse | 1 | 50.00 | +0.00 | ")  # of validation alone
    assert f"| {n} | {mean:.2f} ± " in text
    assert f"| {difference:+.2f} | {low:+.2f} to {high:+.2f} |" in text
    assert made[0].found is None
    assert made[1].p_holm is None  # the other baseline is no arm


def test_an_arm_with_a_baseline_of_its_own_is_compared_with_that(tables):
    """LeJEPA's arms with LeJEPA, which is far ahead of SimSiam; by the setting's own measure."""
    drawn, lines = np.random.default_rng(5), []
    means = {"simsiam": 40, "lejepa": 50, "simsiam_dssl": 41, "simsiam_augself": 43, "lejepa_dssl": 49}
    for arm, mean in means.items():
        for seed in range(6):
            found = line("selfsupervised", arm, seed, 0.0)
            found["measures"] = {"linear": mean + drawn.normal(), "knn": mean - 5.0, "top1": None}
            lines.append(found)
    as_top1 = [{**each, "measures": {"top1": each["measures"]["linear"]}} for each in lines]
    made = {row.arm: row for row in tables.rows(lines, "selfsupervised")}
    assert [*made][:2] == ["lejepa", "simsiam"]
    assert made["lejepa"].found is None
    for arm, against in {"simsiam": "lejepa", "simsiam_dssl": "simsiam", "lejepa_dssl": "lejepa"}.items():
        by_hand = row_by_hand(as_top1, "selfsupervised", arm, [against], 3)
        assert made[arm].against == against
        assert made[arm].found.mean == pytest.approx(by_hand[3])
        assert made[arm].found.t == pytest.approx(by_hand[4:6])
    ps = sorted(row_by_hand(as_top1, "selfsupervised", arm, [arm.partition("_")[0]], 1)[6] for arm in [*means][2:])
    adjusted = sorted(row.p_holm for row in made.values() if not row.baseline)
    assert adjusted[0] == pytest.approx(min(1, 3 * ps[0]))
    assert all(row.p_holm is None for row in made.values() if row.baseline)
    text = tables.text(lines)
    assert "| arm | seeds | test linear probe | difference | 95 % |" in text
    assert f"| {made['simsiam_dssl'].found.mean:+.2f} to simsiam |" in text
    assert "test kNN |" in text
    assert "loss" not in text
    assert "arms are ahead of their baselines**" in text or "arms is ahead of their baselines**" in text


def test_what_lies_beyond_the_largest_rate_is_told(tables):
    values = {"screen": (40.0, 41.0, 42.5), "edge": (39.0, 40.5, 41.0)}
    lines = [line("small", arm, seed, 40.0 + seed) for arm in ("two_views", "jsd") for seed in range(2)]
    lines += [line(f"small/{phase}", "two_views", 200 + at, value, split="val")
              for phase, of in values.items() for at, value in enumerate(of)]  # fmt: skip
    lines.append(line("small/screen", "jsd", 200, 40.0, split="val"))
    pairs = np.subtract(values["edge"], values["screen"])
    half = stats.t.ppf(0.975, 2) * pairs.std(ddof=1) / math.sqrt(3)
    told = f"seeds: `two_views` {pairs.mean():+.2f} ({pairs.mean() - half:+.2f} to {pairs.mean() + half:+.2f})."
    assert told in tables.text(lines)
    assert tables.edge(lines[:4], "small") is None
    assert tables.arms_of(lines, "small") == {"jsd"}


def test_what_has_no_baseline_and_what_chose_are_no_table(tables, lines):
    assert tables.settings(lines) == ["small", "large"]
    assert tables.rows(lines, "large") == []
    assert "### large" not in tables.text(lines)
    assert tables.arms_of(lines, "small") == {"tied_mse", "jsd", "sla", "sam", "agmax"}  # tuned ones, trials together
    assert tables.text([]) == "No run has claimed yet."


def test_the_command_fills_a_page(tables, lines, tmp_path, monkeypatch):
    runs, page = tmp_path / "runs.jsonl", tmp_path / "evidence.md"
    runs.write_text("".join(json.dumps(each) + "\n" for each in lines))
    looked = [{"setting": "small", "arm": "jsd", "seed": seed, "train_loss": 1.5 + seed} for seed in range(2)]
    found = tmp_path / "explained.jsonl"
    found.write_text("".join(json.dumps(each) + "\n" for each in looked))
    marks = {tables.BEGIN: tables.text(lines), tables.EXPLAINED: tables.explained(lines, looked)}
    page.write_text("before\n\n" + "\n\nbetween\n\n".join(f"{mark}\nold\n{tables.END}" for mark in marks))
    for _ in range(2):
        given = {"--runs": runs, "--page": page, "--explained": found}
        monkeypatch.setattr(sys, "argv", ["tables.py", *(str(part) for pair in given.items() for part in pair)])
        tables.main()
        made = (f"{mark}\n\n{text}\n\n{tables.END}" for mark, text in marks.items())
        assert page.read_text() == "before\n\n" + "\n\nbetween\n\n".join(made)
    assert "| jsd | 2 | 2.000 |" in page.read_text()
    assert (tmp_path / "evidence_small.svg").read_text().rstrip().endswith("</svg>")
    assert not (tmp_path / "evidence_large.svg").exists()


def test_the_page_is_what_its_runs_say(tables):
    raw = read_lines(EVIDENCE / "runs.jsonl")
    page = PAGE.read_text(encoding="utf-8")
    looked = tables.explained(raw, tables.read_explained(EVIDENCE / "explained.jsonl"))
    assert f"{tables.BEGIN}\n\n{tables.text(raw)}\n\n{tables.END}" in page
    assert f"{tables.EXPLAINED}\n\n{looked}\n\n{tables.END}" in page
    for setting in tables.settings(raw):
        primary, _ = tables.setting_of(setting).measure
        as_top1 = [{**each, "measures": {"top1": each["measures"].get(primary)}} for each in raw]
        for row in tables.rows(raw, setting)[1:]:
            expected = row_by_hand(as_top1, setting, row.arm, [row.against], 1)
            assert row.found.mean == pytest.approx(expected[3])


def test_the_packaged_recipe_is_the_arm_that_claimed(tables):
    """In all that a result depends on but the seed, with the trial that validation chose."""
    arms, chosen = importlib.import_module("arms"), importlib.import_module("chosen")
    trial = chosen.tuned(read_lines(EVIDENCE / "runs.jsonl"), "overfitted", "rdrop_supcon")
    overrides = (*arms.SETTINGS["overfitted"].overrides, *arms.ARMS["rdrop_supcon"], *trial)
    assert mark_of(load_recipe("few_images_cifar10")) == mark_of(load_recipe(str(EVIDENCE / "base.yaml"), *overrides))


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
    for where, setting in arms.SETTINGS.items():
        assert {*setting.baselines, *setting.against, *setting.against.values()} <= {*setting.arms}
        for name, overrides in setting.arms.items():
            tried = [*arms.trials(name).values()] if setting.tunes else [()]
            assert len({*tried}) == (3 if setting.tunes else 1)
            recipe = load_recipe(str(EVIDENCE / setting.base), *setting.overrides, *overrides, *tried[-1])
            assert recipe.relation_plan
            assert "lr=0.2," in recipe.train.optimizer or not setting.tunes
            if setting.base == "base.yaml":
                lengths = {"overfitted": (1000, 60), "overfitted_heavy": (1000, 60), "tiny20": (1000, 60)}
                assert (recipe.data.limit, recipe.train.epochs) == lengths.get(where, (5000, 15))


# ------------------------------------------------------------------------------------------------------------ the rules

TUNED = {
    "two_views": (40, 39, 38),
    "one_view": (40, 40.5, 41),
    "tied_mse": (40, 43, 39),
    "jsd": (42, 40, 40),
    "rdrop": (42, 40, 40),
    "augself": (42, 40, 40),
    "sam": (38.1, 36, 36),
    "sla": (38, 37, 36),  # 3 points behind one_view's best
}
SCREENED = {"two_views": 40, "one_view": 41, "tied_mse": 43, "jsd": 41.6, "rdrop": 41.1, "augself": 42, "sam": 41}
CLAIMED = {"two_views": 40, "one_view": 41, "tied_mse": 44, "jsd": 42.5, "rdrop": 42, "augself": 43}


@pytest.fixture(scope="module")
def chosen(tables):
    return importlib.import_module("chosen")


@pytest.fixture(scope="module")
def run(tables):
    return importlib.import_module("run")


def phases(run, tuned=TUNED, screened=SCREENED, claimed=CLAIMED):
    """Lines of `overfitted`; arms that are not said were hopeless. Differences between claims are never just equal."""
    found = [
        line("overfitted/tune", name, 100, tuned.get(arm, (30, 30, 30))[number], split="val")
        for arm in run.SETTINGS["overfitted"].arms
        for number, name in enumerate(run.trials(arm))
    ]
    found += [
        line("overfitted/screen", arm, seed, value, split="val")
        for arm, value in screened.items()
        for seed in range(200, 205)
    ]
    return found + [
        line("overfitted", arm, seed, value + seed + 0.03 * (ord(arm[0]) % 11) * (seed % 3 - 1))
        for arm, value in claimed.items()
        for seed in range(12)
    ]


def without(lines, **of):
    return [each for each in lines if any(each[key] != value for key, value in of.items())]


def test_the_best_of_three_trials_is_taken(run, chosen):
    lines, weak = phases(run), ("train.optimizer.lr=0.1", "relations.similarity.weight=warmup(0.3)")
    assert chosen.tuned(lines, "overfitted", "one_view") == ("train.optimizer.lr=0.2",)
    assert chosen.tuned(lines, "overfitted", "tied_mse") == weak
    assert chosen.tuned(lines, "tiny20", "tied_mse") == weak  # nothing is tuned on it
    assert chosen.tuned(lines, "overfitted_heavy", "tied_mse") == weak
    with pytest.raises(SystemExit, match=r"underfitted: jsd is not tuned, jsd\.0 is missing"):
        chosen.tuned(lines, "underfitted", "jsd")
    with pytest.raises(SystemExit, match=r"jsd is not tuned, jsd\.2 is missing"):
        chosen.tuned(without(lines, recipe="jsd.2"), "overfitted", "jsd")


def test_an_arm_three_points_behind_is_not_screened(run, chosen):
    assert chosen.screened(phases(run), "overfitted") == ["tied_mse", "jsd", "rdrop", "sam", "augself"]
    with pytest.raises(SystemExit, match=r"agmax is not tuned, agmax\.1 is missing"):
        chosen.screened(without(phases(run), recipe="agmax.1"), "overfitted")


def test_screening_says_who_claims_and_with_how_many_seeds(run, chosen):
    lines = phases(run)
    assert chosen.going_on(lines, "overfitted", "claim") == ["tied_mse", "jsd", "rdrop", "augself"]  # sam is at 0
    assert chosen.going_on(lines, "overfitted", "claim_close") == ["jsd", "rdrop"]  # augself is at 1.0
    with pytest.raises(SystemExit, match="rdrop has no result of seed 203"):
        chosen.going_on(without(lines, recipe="rdrop", seed=203), "overfitted", "claim")
    for missing in ("sam", "one_view"):
        few = without(lines, setting="overfitted/screen", recipe=missing)
        with pytest.raises(SystemExit, match=f"{missing} is not screened"):
            chosen.going_on(few, "overfitted", "claim")


def test_other_settings_take_the_best_two_that_are_ahead(run, chosen):
    lines = phases(run)
    assert chosen.winners(lines, "overfitted") == ["tied_mse", "augself"]  # jsd and rdrop are ahead as well
    for setting in ("underfitted", "tiny20", "overfitted_heavy"):
        assert chosen.going_on(lines, setting, "claim") == ["tied_mse", "augself"]
        assert chosen.going_on(lines, setting, "claim_close") == []
    close = phases(run, screened={**SCREENED, "augself": 41.9})
    assert chosen.going_on(close, "tiny20", "claim_close") == ["augself"]  # what screening in overfitted had close
    few = phases(run, claimed={**CLAIMED, "tied_mse": 40.9, "augself": 41.3, "rdrop": 41.0, "jsd": 40})
    assert chosen.winners(few, "overfitted") == ["augself"]
    none = phases(run, claimed={**CLAIMED, "tied_mse": 40.9, "augself": 40.0, "rdrop": 40.8, "jsd": 40})
    assert chosen.winners(none, "overfitted") == ["tied_mse"]
    with pytest.raises(SystemExit, match="rdrop has no claim of seed 7"):
        chosen.winners(without(lines, setting="overfitted", recipe="rdrop", seed=7), "overfitted")
    with pytest.raises(SystemExit, match="two_views has no claim of seed 0"):
        chosen.winners(without(lines, setting="overfitted", recipe="two_views"), "overfitted")


def test_a_phase_trains_what_the_rules_say(run, tmp_path):
    runs = tmp_path / "runs.jsonl"
    runs.write_text("".join(json.dumps(each) + "\n" for each in phases(run)))
    made = run.recipes("overfitted", "screen", [], runs)
    assert [*made] == ["two_views", "one_view", "tied_mse", "jsd", "rdrop", "sam", "augself"]
    assert made["one_view"][-1] == "train.optimizer.lr=0.2"
    assert [*run.recipes("overfitted", "claim_close", [], runs)] == ["two_views", "one_view", "jsd", "rdrop"]
    assert len(run.recipes("overfitted", "tune", [], runs)) == 3 * len(run.SETTINGS["overfitted"].arms)
    assert [*run.recipes("underfitted", "tune", [], runs)] == [
        f"{arm}.{number}" for arm in ("two_views", "one_view", "tied_mse", "augself") for number in range(3)
    ]
    assert [*run.recipes("tiny20", "claim", [], runs)] == ["two_views", "one_view", "tied_mse", "augself"]
    beyond = run.recipes("overfitted", "edge", [], runs)
    assert [*beyond] == ["two_views", "one_view", "tied_mse", "augself"]
    assert [each[-1] for each in beyond.values()] == ["train.optimizer.lr=0.4"] * 4
    assert [*run.recipes("overfitted", "screen", ["sla"], runs)] == ["two_views", "one_view", "sla"]  # named by hand
    semi = phases(run) + [
        line("semisupervised/tune", name, 100, 40 + number, split="val")
        for arm in run.SETTINGS["semisupervised"].arms
        for number, name in enumerate(run.trials(arm))
    ]
    runs.write_text("".join(json.dumps(each) + "\n" for each in semi))
    arms = ["fixmatch", "freematch", "labels", "tied_fixmatch", "tied_freematch"]  # which screens none of them
    assert [*run.recipes("semisupervised", "tune", [], runs)] == [
        f"{arm}.{number}" for arm in arms for number in range(3)
    ]
    assert [*run.recipes("semisupervised", "claim", [], runs)] == arms
    with pytest.raises(SystemExit, match="semisupervised: nothing is screened on it; its arms are all that it has"):
        run.recipes("semisupervised", "screen", [], runs)
    assert run.recipes("selfsupervised", "claim_few", [], runs) == run.SETTINGS["selfsupervised"].arms
    with pytest.raises(SystemExit, match="selfsupervised: nothing is tuned on it; its arms are as published"):
        run.recipes("selfsupervised", "tune", [], runs)
    with pytest.raises(SystemExit, match="tiny20: nothing is tuned on it; its trials are those of overfitted"):
        run.recipes("tiny20", "tune", [], runs)
    with pytest.raises(SystemExit, match="underfitted: nothing is screened on it; its arms are the best two of over"):
        run.recipes("underfitted", "screen", [], runs)


@pytest.mark.parametrize(
    ("given", "told"),
    {
        ("--part", "0/2"): "wanted K/N with K from 1 to N, as 1/2, got '0/2'",
        ("--part", "3/2"): "wanted K/N with K from 1 to N, as 1/2, got '3/2'",
        ("--part", "half"): "wanted K/N with K from 1 to N, as 1/2, got 'half'",
        ("--arms", "jsd,tied"): "overfitted: no arm is called 'tied'; arms: two_views, one_view, tied_mse",
    }.items(),
    ids=["none of 2", "3 of 2", "no number", "no arm"],
)
def test_what_is_asked_for_wrongly_is_a_line(run, given, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "overfitted", "tune", "data", "out", *given])
    with pytest.raises(SystemExit) as error:
        run.main()
    assert error.value.code == 2
    assert told in capsys.readouterr().err


def test_a_sentence_says_what_the_rows_do(run, tables):
    lines = [each for each in phases(run) if each["setting"] == "overfitted"]
    lines += over_seeds({"sla": 38.0, "agmax": 41.02}, 12)
    told = tables.sentence(tables.rows(lines, "overfitted"), 17)
    agmax = row_by_hand(lines, "overfitted", "agmax", BASELINES, 17)
    assert told == (
        "On 12 seeds: **4 of 6 arms are ahead of `one_view`** (tied_mse, augself, jsd, rdrop); 4 also with p (Holm, "
        "over 17 that were tried) below 0.05 (tied_mse, augself, jsd, rdrop); 1 is behind (sla). The intervals of the "
        f"other 1 hold 0; they refute gains above {agmax[5]:+.2f} and no smaller ones."
    )


def over_seeds(shifts, seeds, setting="overfitted"):
    return [line(setting, arm, seed, value + seed + 0.2 * (seed % 4 - 1.5))
            for arm, value in shifts.items() for seed in range(seeds)]  # fmt: skip


def test_an_arm_pays_by_three_settings(run, tables):
    lines = [each for each in phases(run) if each["setting"] == "overfitted"]
    assert tables.verdict(lines) == "No arm has claimed in all of `overfitted`, `tiny20`, `underfitted` yet."
    lines += over_seeds({"two_views": 50, "one_view": 49, "jsd": 51, "tied_mse": 52, "augself": 50}, 12, "tiny20")
    less = {"two_views": 60, "one_view": 59, "jsd": 60, "tied_mse": 59.5, "augself": 62}
    assert tables.arms_of(lines, "tiny20") == {"jsd", "tied_mse", "augself"}  # it tries no others
    told = tables.verdict(lines + over_seeds(less, 12, "underfitted"))
    assert told == (
        "Interval above 0 in `overfitted` and `tiny20`, and not below -0.3 in `underfitted`: **jsd** of tied_mse, "
        "augself, jsd."
    )


def test_twenty_classes_of_a_table(run, tmp_path):
    """Every tenth class: so many images to train on, the rest beside the test images; others are gone by name."""
    from datasets import ClassLabel, Dataset, Features, Value
    from pyarrow.parquet import read_table

    names = [f"class {number}" for number in range(22)]
    kinds = Features({"label": ClassLabel(names=names), "place": Value("int64")})
    root, out = tmp_path / "whole", tmp_path / "twenty"
    root.mkdir()
    whole = {"train": [number % 22 for number in range(22 * 63)], "test": [number % 22 for number in range(22 * 2)]}
    for split, labels in whole.items():
        table = Dataset.from_dict({"label": labels, "place": [*range(len(labels))]}, features=kinds)
        table.to_parquet(str(root / f"{split}.parquet"))
    run.tiny20(root, out)
    made = {split: Dataset(read_table(out / f"{split}.parquet")) for split in whole}
    train = {(row["label"], row["place"]) for row in made["train"]}
    taken = {0: 0, 10: 1, 20: 2}
    assert train == {(taken[place % 22], place) for place in range(22 * 60) if place % 22 in taken}
    test = [(row["label"], row["place"]) for row in made["test"]]
    rest = [(taken[place % 22], place) for place in range(22 * 60, 22 * 63) if place % 22 in taken]
    assert test == [(taken[place % 22], place) for place in range(44) if place % 22 in taken] + rest
    assert all(images.features["label"].names == ["class 0", "class 10", "class 20"] for images in made.values())
    before = (out / "train.parquet").stat().st_mtime_ns
    run.tiny20(root, out)
    assert (out / "train.parquet").stat().st_mtime_ns == before
