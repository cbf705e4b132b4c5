"""Rendered views keep their bits: from version to version, and on every processor."""

from digests import RECIPES, STRENGTHS, digests, stored
from manyview.views.ops import OPS


def test_every_op_has_digests():
    assert STRENGTHS.keys() == OPS.keys()
    assert stored().keys() >= {make for each in STRENGTHS.values() for make in each} | {
        f"recipe {name}" for name in RECIPES
    }


def test_views_have_the_bits_that_are_kept():
    """There is no exception: compiled, and by the reference from grey levels and from floats."""
    now, kept = digests(), stored()
    assert now.keys() == kept.keys()
    changed = {what: now[what] for what in now if now[what] != kept[what]}
    assert not changed, (
        "python tests/digests.py shows these, --write keeps them; older runs are then replayed otherwise"
    )


def test_ops_that_move_pixels_give_the_same_bits_compiled_and_by_the_reference():
    for name in ("affine", "perspective", "rotate", "shear", "translate"):
        for make in STRENGTHS[name]:
            compiled, reference, _ = stored()[make].split()
            assert compiled == reference, make
