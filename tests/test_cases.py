"""Cases in turn are all of them, and the one that fails is named."""

import pytest

from cases import in_turn

ALL, BY_NAME = [], []
SAYINGS = [("a", 1), ("a", 2), ("b", 3)]


@in_turn("name, number", SAYINGS)
@in_turn("twice", [False, True])
def test_of_all(name, number, twice):
    ALL.append((name, number, twice))


@in_turn("name, number", SAYINGS, by="name")
@pytest.mark.parametrize("kind", ["x"])
def test_by_name(name, number, kind):
    BY_NAME.append((name, number, kind))


def test_every_case_was_run():
    ALL.clear()
    BY_NAME.clear()
    test_of_all()
    for name in "ab":
        test_by_name(name=name, kind="x")
    assert [(name, number) for name, number, twice in ALL if twice] == SAYINGS
    assert len(ALL) == 6
    assert [(*saying, "x") for saying in SAYINGS] == BY_NAME


def test_the_case_that_fails_is_named():
    @in_turn("name, number", SAYINGS)
    def test(name, number):
        assert number < 2, "too large"

    with pytest.raises(AssertionError, match=r"^name='a', number=2: too large"):
        test()
