"""What `make check` runs: a spine of the whole, and the tests of what changed.

    python tests/changed.py            since the last commit, or, where nothing has changed, in it
    python tests/changed.py main       since `main`

Prints paths for pytest, and on stderr what they are the tests of. The tests of a source are those of its name or its
folder's (`relations/swav.py`: `test_relations.py`) and, unless these are many, those that import it.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPINE = (
    *("test_house", "test_grammar", "test_views", "test_heads", "test_step", "test_engine", "test_evaluate"),
    "test_fewshot",
)
SPINE_OF_TRAINING = ("test_train", "test_result_is_what_best_gives_on_the_test_images")
MANY = 4  # a module that more tests import is everybody's, and the spine stands for them


def modules() -> dict[str, Path]:
    """Every file of tests by its name without ending, which is its own."""
    return {path.stem: path for path in sorted((ROOT / "tests").rglob("test_*.py"))}


def spine() -> list[str]:
    """The paths, and one test by name, that stand for the whole."""
    known = modules()
    module, name = SPINE_OF_TRAINING
    return [*(_path(known[stem]) for stem in SPINE), f"{_path(known[module])}::{name}"]


def about(changed: str) -> list[str]:
    """The test files of one changed file, by its path from the root; none where no test is about it."""
    path, known = Path(changed), modules()
    if path.suffix == ".md" or path.parts[0] == "docs" or path.name == "mkdocs.yml":
        return [_path(known[stem]) for stem in ("test_docs", "test_pages", "test_site")]
    if path.parts[0] not in ("src", "tests") or path.suffix not in (".py", ".yaml"):
        return []
    if path.stem in known and path.parts[0] == "tests":
        return [changed] if (ROOT / changed).is_file() else []
    if path.suffix == ".yaml":
        return [_path(known[stem]) for stem in ("test_authors", "test_recipe")]
    named = [_path(known[f"test_{name}"]) for name in (path.stem, path.parent.name) if f"test_{name}" in known]
    users = [_path(test) for test in known.values() if _imports(test.read_text(encoding="utf-8"), path)]
    everybodys = len(users) > MANY and path.parts[0] == "src"
    return list(dict.fromkeys([*named, *(() if everybodys else users)]))


def _imports(text: str, source: Path) -> bool:
    """Whether a test's text imports a module of the package, or a helper that stands beside the tests."""
    where = [part for part in source.with_suffix("").parts[1:] if part != "__init__"]
    dotted, (*parents, last) = re.escape(".".join(where)), where
    patterns = [rf"^(from|import) {dotted}\b(?!\.)"]
    if parents:
        patterns.append(rf"^from {re.escape('.'.join(parents))} import ([\w, ]*\b|\([^)]*\b){last}\b")
    return any(re.search(pattern, text, re.MULTILINE) for pattern in patterns)


def _path(test: Path) -> str:
    return test.relative_to(ROOT).as_posix()


def changed_since(base: str | None = None) -> list[str]:
    """Files that differ from `base`, new ones too; without one from the last commit, or those that it changed."""
    new = _git("ls-files", "--others", "--exclude-standard")
    if base is not None:
        return [*_git("diff", "--name-only", base), *new]
    return [*_git("diff", "--name-only", "HEAD"), *new] or _git("diff", "--name-only", "HEAD~1", "HEAD")


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []  # no repository: nothing is known to have changed


def chosen(changed: Iterable[str]) -> list[str]:
    """The spine and the tests of what changed, each once."""
    whole = spine()
    tests = {test for path in changed for test in about(path)}
    return [*whole, *sorted(tests - set(whole))]


if __name__ == "__main__":
    paths = changed_since(*sys.argv[1:2])
    print(f"the spine, and the tests of {len(paths)} changed files", file=sys.stderr)
    print("\n".join(chosen(paths)))
