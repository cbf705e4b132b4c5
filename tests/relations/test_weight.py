"""Weight schedules: each against its formula; the random ones as pure functions of seed and update."""

import itertools
import math
import statistics

import pytest
import torch

from manyview.errors import RecipeError
from manyview.foundation.grammar import parse_call
from manyview.load import parse_recipe
from manyview.recipe.readouts import parse_weight
from manyview.relations.weight import SCHEDULES, Moment, Weight
from manyview.step import Step


def weight(text):
    return parse_weight(parse_call(text, "relations.0"), "relations.0")


def at(schedule, update=0, progress=0.0, seed=0):
    return schedule.at(Moment(update, progress, seed))


@pytest.mark.parametrize("progress", [0.0, 0.05, 0.1, 0.25, 0.5, 1.0])
def test_schedules_of_the_progress(progress):
    assert at(parse_weight(20, ""), progress=progress) == 20
    assert at(weight("constant(20)"), progress=progress) == 20
    assert at(weight("linear(20)"), progress=progress) == pytest.approx(20 * progress, abs=1e-12)
    assert at(weight("warmup(20)"), progress=progress) == pytest.approx(20 * min(1, progress / 0.1), abs=1e-12)
    assert at(weight("warmup(20, fraction=0.5)"), progress=progress) == pytest.approx(20 * min(1, progress / 0.5))
    assert at(weight("warmup(20, fraction=1.0)"), progress=progress) == pytest.approx(20 * progress)


def test_alternating_changes_sign_each_update_and_starts_positive():
    assert [at(weight("alternating(3)"), update=n) for n in range(5)] == [3, -3, 3, -3, 3]


def test_random_is_uniform_between_minus_and_plus_the_peak():
    values = [at(weight("random(2)"), update=n) for n in range(8000)]
    assert -2 <= min(values) < -1.99
    assert 1.99 < max(values) <= 2
    # each of ten equal bins holds 800 +- five standard deviations
    counts = [sum(-2 + 0.4 * b <= value < -1.6 + 0.4 * b for value in values) for b in range(10)]
    assert sum(counts) == len(values)
    assert max(abs(count - 800) for count in counts) < 5 * math.sqrt(8000 * 0.1 * 0.9)
    # neighbours are unrelated: their correlation is 0 within five standard errors
    correlation = sum(a * b for a, b in itertools.pairwise(values)) / sum(a * a for a in values)
    assert abs(correlation) < 5 / math.sqrt(8000)


def test_random_sign_is_plus_or_minus_the_peak_equally_often():
    values = [at(weight("random_sign(2)"), update=n) for n in range(8000)]
    assert set(values) == {2.0, -2.0}
    assert abs(values.count(2.0) - 4000) < 5 * math.sqrt(8000 / 4)


@pytest.mark.parametrize("name", ["random", "random_sign"])
def test_random_schedules_keep_no_state(name):
    forwards = [at(weight(f"{name}(1)"), update=n, seed=3) for n in range(50)]
    one = weight(f"{name}(1)")
    assert [at(one, update=n, seed=3) for n in reversed(range(50))][::-1] == forwards  # any order, one object
    assert [at(one, update=n, seed=4) for n in range(50)] != forwards
    assert [at(one, update=n, progress=0.7, seed=3) for n in range(50)] == forwards  # the progress does not matter


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_negative_peak_is_the_schedule_turned_round(name):
    """Pushing apart; and Tied-Augment's negate_even: -w at even updates, w at odd ones."""
    plus, minus = weight(f"{name}(3)"), weight(f"{name}(-3)")
    moments = [Moment(n, n / 20, 5, "similarity") for n in range(20)]
    assert [minus.at(moment) for moment in moments] == [-plus.at(moment) for moment in moments]
    assert str(minus) == ("-3" if name == "constant" else f"{name}(-3)")
    assert [at(weight("alternating(-3)"), update=n) for n in range(4)] == [-3, 3, -3, 3]


def test_a_negative_weight_pushes_features_apart():
    recipe = """
    views: {a: {from: image, make: flip}, b: {like: a}}
    branches: {net: {backbone: cresnet20}}
    relations: ["similarity(h(a), h(b), weight=%s)"]
    train: {epochs: 1}
    """
    images, index = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8), range(4)
    tied, pushed = (Step(parse_recipe(recipe % value), 2)(images, index=index, epoch=0)["loss"] for value in (2, -2))
    assert tied.item() > 0
    assert pushed.item() == -tied.item()


def test_text_names_schedule_and_peak():
    assert [str(parse_weight(20, "")), str(weight("warmup(0.5)"))] == ["20", "warmup(0.5)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "warm(2)",
            "relations.0: unknown weight schedule 'warm'; did you mean 'warmup'? weight schedules: "
            "alternating, constant, linear, random, random_sign, warmup",
        ),
        (
            "warmup(2, fraction=0)",
            "relations.0.weight: warmup(2, fraction=0): warmup's fraction must be in (0, 1], got 0",
        ),
        (
            "warmup(2, fraction=1.5)",
            "relations.0.weight: warmup(2, fraction=1.5): warmup's fraction must be in (0, 1], got 1.5",
        ),
        (
            "warmup(2, share=0.5)",
            "relations.0.weight: warmup: unknown argument 'share'; arguments: fraction, peak",
        ),
    ],
)
def test_wrong_schedules(text, message):
    with pytest.raises(RecipeError) as caught:
        weight(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2", "relations.0: weight is a number or a schedule such as warmup(20), got '2'"),
        (True, "relations.0: weight is a number or a schedule such as warmup(20), got True"),
        (None, "relations.0: weight is a number or a schedule such as warmup(20), got None"),
        ([1], "relations.0: weight is a number or a schedule such as warmup(20), got [1]"),
    ],
)
def test_wrong_values(value, message):
    with pytest.raises(RecipeError) as caught:
        parse_weight(value, "relations.0")
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["warmup('2')", "warmup(a)", "linear(2, 0.5)", "warmup(2, 'x')", "a"])
def test_nonsense_is_refused_in_one_line(text):
    recipe = f"""
    views: {{a: {{from: image, make: flip}}}}
    branches: {{net: {{backbone: cresnet20}}}}
    relations: ["cross_entropy(logits(a), weight={text})"]
    train: {{epochs: 1}}
    """
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe)
    assert str(caught.value).startswith("relations.0")
    assert "\n" not in str(caught.value)


def test_an_unknown_schedule_cannot_be_built():
    with pytest.raises(ValueError, match=f"unknown weight schedule 'x'; schedules: {', '.join(SCHEDULES)}"):
        Weight(1.0, "x")


def test_two_random_weights_do_not_move_together():
    moments = [[Moment(n, 0.0, 0, relation) for n in range(2000)] for relation in ("similarity", "similarity_2")]
    first, second = ([weight("random(1)").at(moment) for moment in each] for each in moments)
    assert abs(statistics.correlation(first, second)) < 0.1
