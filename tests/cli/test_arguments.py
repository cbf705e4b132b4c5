"""What a word on the command line is taken for, by every command alike."""

import pytest

from manyview.cli.arguments import is_override

TAKEN = {
    "train.epochs=3": True,
    "relations.0=cosine(z(a), z(b))": True,
    "data.root = photos": True,
    "tied_cifar10:train.epochs=3": True,
    "folder/one.yaml:evaluate=['knn(k=3)']": True,
    "knn(k=20)": False,
    "linear": False,
    "photos/a=b.png": False,
    "=3": False,
}


@pytest.mark.parametrize("word", TAKEN)
def test_an_override_has_a_key_that_can_be_one(word):
    assert is_override(word) == TAKEN[word]


def test_a_file_may_be_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.yaml").touch()
    assert not is_override("a=b.yaml")
