"""An op of one's own that would break replay in silence is refused when the recipe is loaded."""

import random

import numpy as np
import pytest
import torch

import own_words
from manyview import parse_recipe
from manyview.errors import ManyviewWarning, RecipeError
from manyview.views.ops import OPS
from manyview.views.trial import reference_note, try_op

HEAD = "\n".join(own_words.IMPORTS.splitlines()) + "\nimport random\nfrom manyview.views.ops import OPS as PACKAGED\n"
RECIPE = """
views: {a: {from: image, make: "pad_crop(16) | MAKE"}, b: {like: a}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["similarity(h(a), h(b))"]
train: {epochs: 1}
"""
SAMPLE = '{"grain": draws.uniform("grain", 4, 0.0, self.strength), "applied": draws.coin("applied", self.p)}'
RENDER = 'where_applied(params["applied"], (images + grain).clamp(0, 1), images)'
WRONG = {
    "torch in sample": (
        (SAMPLE, SAMPLE.replace('draws.uniform("grain", 4, 0.0, self.strength)', "torch.rand(len(draws), 4).double()")),
        "sample draws from torch's own generator, so that no replay shows what was seen; draw in sample, as in "
        "draws.uniform('name')",
    ),
    "NumPy in render": (
        ("(images + grain)", "(images + grain * np.random.rand())"),
        "render draws from NumPy's own generator",
    ),
    "Python in render": (
        ("(images + grain)", "(images + grain * random.random())"),
        "render draws from Python's own generator",
    ),
    "a generator of its own": (
        ("(images + grain)", "(images + grain * np.random.default_rng().random())"),
        "render makes another picture of an image in a batch than alone",
    ),
    "into its images": (
        ("images = as_float(images)", "images.copy_(images.flip(-1)); images = as_float(images)"),
        "render writes into the images or parameters that it is given; make new ones",
    ),
    "into its parameters": (
        ("images = as_float(images)", "params['grain'].mul_(2); images = as_float(images)"),
        "render writes into",
    ),
    "of its batch": (
        ("(images + grain)", "(images + images.mean(0))"),
        "render makes another picture of an image in a batch",
    ),
    "sampled of its batch": (
        ("4, 0.0, self.strength)", "4, 0.0, self.strength) * len(draws)"),
        "sample gives an image other parameters in a batch than alone; draw by `draws`, for each row",
    ),
    "another size": (
        ("return sizes", "return sizes // 2"),
        "render gives images [3, 3, 8, 8], as output_size says, got [3, 3, 16, 16]",
    ),
    "out of range": ((".clamp(0, 1)", ""), "render gives pixels outside [0, 1], or none; end it with .clamp(0, 1)"),
    "no rows": (
        (SAMPLE, '{"grain": draws.uniform("grain", 4)[0], "applied": draws.coin("applied", self.p)}'),
        "sample gives a row for each image, [B, …], got grain [4] for 3 images",
    ),
    "no tensors": ((SAMPLE, '{"grain": 3.0}'), "sample gives a dict of tensors, name -> [B, …], got {'grain': 3.0}"),
    "a difference": (
        ('return a["grain"] - b["grain"]', 'return (a["grain"] - b["grain"]).sum()'),
        "difference gives a row of numbers for each image, [B, k], got []",
    ),
    "an opposite of nothing": (
        ("    p: float", "    anti = ('grains', 'aplied')\n    p: float"),
        "anti names 'grains', 'aplied', by which sample draws nothing; it draws by 'applied', 'grain'",
    ),
    "a mistake": (("as_float(images)", "as_float(image)"), "NameError: name 'image' is not defined"),
}


def loaded(tmp_path, make, text=own_words.SPECKLE):
    words = own_words.written(tmp_path, HEAD + text + "OPS = {'speckle': Speckle}\n")
    return parse_recipe(RECIPE.replace("MAKE", make), use=words)


@pytest.mark.parametrize("case", WRONG)
def test_what_breaks_replay_is_refused(tmp_path, case):
    (old, new), message = WRONG[case]
    text = own_words.SPECKLE.replace(old, new)
    assert text != own_words.SPECKLE
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(RecipeError, match=r"^views.a.make: speckle: ") as caught:
        loaded(tmp_path, "speckle(0.5)", text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002


def test_within_one_of_it_is_tried_too(tmp_path):
    broken = own_words.SPECKLE.replace("(images + grain)", "(images + images.mean(0))")
    with pytest.raises(RecipeError, match=r"views.a.make: one_of: render makes another picture"):
        loaded(tmp_path, "one_of('speckle(0.5)', 'flip(1)')", broken)


def test_rounding_that_follows_the_batch_is_told(tmp_path):
    rounded = own_words.SPECKLE.replace("(images + grain)", "(images + grain + 1e-6 * (len(images) > 1))")
    with pytest.warns(ManyviewWarning, match="Speckle is rendered in a batch to other last bits than alone"):
        loaded(tmp_path, "speckle(0.5)", rounded)


def test_a_draw_with_an_opposite_that_is_not_made_with_these_arguments_is_told(tmp_path):
    """An op may draw some of them for some arguments alone."""
    half = own_words.SPECKLE.replace("    p: float", "    anti = ('grain', 'angle')\n    p: float")
    with pytest.warns(ManyviewWarning, match="Speckle: with these arguments anti names 'angle', by which sample draws"):
        loaded(tmp_path, "speckle(0.5)", half)
    none = half.replace(SAMPLE, '{"grain": torch.zeros(len(draws), 4).double(), "applied": torch.ones(len(draws)) > 0}')
    assert none != half
    assert loaded(tmp_path, "speckle(0.5)", none)


def test_an_op_that_these_images_do_not_fit_is_not_refused(tmp_path):
    small = own_words.SPECKLE.replace('return {"grain"', 'raise DataError("too small")\n        return {"grain"')
    assert loaded(tmp_path, "speckle(0.5)", small)


def test_a_compiled_form_that_does_something_else_is_refused(tmp_path):
    both = own_words.SPECKLE + (
        "    def lower(self, params, sizes):\n        return PACKAGED['flip']().lower(params, sizes)\n"
    )
    with pytest.raises(RecipeError, match=r"speckle: lower and render make other pixels of the same parameters, up to"):
        loaded(tmp_path, "speckle(0.5)", both)


@pytest.mark.parametrize("name", ["flip", "crop", "jitter", "randaugment", "erase"])
def test_packaged_ops_pass_the_trial(name):
    try_op(OPS[name](*({"crop": [16]}.get(name, []))), (24, 24))


def test_what_has_no_compiled_form_is_told_with_its_cost(tmp_path):
    recipe = loaded(tmp_path, "speckle(0.5) | flip | one_of('speckle(0.2)', 'flip(1)')")
    told = reference_note(recipe.train_views, recipe.words)
    assert told.count("speckle (some ") == told.count("one_of (some ") == 1
    assert told.startswith("no compiled form (`lower`), so rendered by its reference: speckle (some ")
    packaged = parse_recipe(RECIPE.replace("MAKE", "mixup(0.2)"))
    assert reference_note(packaged.train_views, packaged.words) == ""
