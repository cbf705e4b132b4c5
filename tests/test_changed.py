"""What `make check` runs."""

import subprocess
import sys

import pytest

import changed
from changed import ROOT, about, chosen, modules, spine


def names(paths):
    return {path.rpartition("/")[2] for path in paths}


def test_names_of_test_files_are_their_own():
    assert len(modules()) == len(list((ROOT / "tests").rglob("test_*.py")))


def test_the_spine_exists():
    for path in spine():
        file, _, name = path.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).is_file(), path


@pytest.mark.parametrize(
    ("source", "among"),
    [
        ("src/manyview/evaluate/knn.py", {"test_knn.py"}),  # of its name
        ("src/manyview/views/ops/randaugment.py", {"test_policies.py"}),  # that import it
        ("src/manyview/views/ops/grid_shuffle.py", {"test_ops.py"}),  # of its folder
        ("src/manyview/errors.py", set()),  # everybody's: no test is called so, and the spine stands for all
        ("src/manyview/recipes/tied_cifar10.yaml", {"test_authors.py", "test_recipe.py"}),
        ("tests/subjects.py", {"test_cache.py"}),  # a helper: who imports it
        ("tests/foundation/test_grammar.py", {"test_grammar.py"}),
        ("README.md", {"test_docs.py", "test_pages.py"}),
        ("mkdocs.yml", {"test_site.py"}),
        ("docs/make_house.py", {"test_docs.py"}),
        ("Makefile", set()),
    ],
)
def test_the_tests_of_a_file(source, among):
    found = names(about(source))
    assert among <= found
    assert among or not found


def test_chosen_are_the_spine_and_each_once():
    paths = chosen(["src/manyview/evaluate/knn.py", "tests/foundation/test_grammar.py", "src/manyview/evaluate/knn.py"])
    assert paths[: len(spine())] == spine()
    assert len(paths) == len(set(paths))
    assert "test_knn.py" in names(paths)


def test_it_prints_paths_that_pytest_takes(tmp_path):
    done = subprocess.run([sys.executable, changed.__file__], capture_output=True, text=True, check=True)
    assert all((ROOT / line.partition("::")[0]).is_file() for line in done.stdout.split())
    assert done.stderr.startswith("the spine, and the tests of ")
