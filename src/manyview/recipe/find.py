"""Where a recipe's text stands: in the package, in a file, in a run. Nothing that it names is loaded to find it."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

from manyview.errors import ManyviewError, RecipeError, RunError, reason, unknown
from manyview.recipe.strict_yaml import read_yaml


def recipe_text(name: str | Path) -> str:
    """The text of a packaged recipe by name, or of a YAML file by path. Raises RecipeError where there is none."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return _read_file(path)
    known = _packaged()
    if str(name) not in known:
        raise RecipeError(unknown("recipe", str(name), known) + _beside(path))
    return str(known[str(name)].read_text(encoding="utf-8"))


def text_of_run(folder: Path) -> str:
    """The text of the recipe that a run was made with, resolved. Raises RunError for a folder that is no run."""
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise RunError(f"{folder} is no run: it has no recipe.yaml")
    return _text(path, "recipe of a run", RunError)


def packaged_recipes() -> dict[str, str]:
    """Name -> text of the recipes that come with manyview, in alphabetical order."""
    return {name: file.read_text(encoding="utf-8") for name, file in _packaged().items()}


def title_of(text: str) -> str:
    """A recipe's title, read from its text alone; "" where it has none. Raises RecipeError where it is not YAML."""
    raw = read_yaml(text)
    return str(raw.get("title", "")) if isinstance(raw, dict) else ""


def _packaged() -> dict[str, Any]:
    files = sorted((resources.files("manyview") / "recipes").iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def _read_file(path: Path) -> str:
    if not path.is_file():
        packaged = path.stem in _packaged()
        meant = f"; the packaged recipe is called {path.stem}, without ending and folder" if packaged else _beside(path)
        raise RecipeError(f"no recipe file {path}{meant}")
    return _text(path, "recipe file", RecipeError)


def _text(path: Path, what: str, mistake: type[ManyviewError]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise mistake(f"{what} {path} cannot be read: byte {error.start} is not UTF-8 text") from None
    except OSError as error:
        raise mistake(f"{what} {path} cannot be read: {reason(error)}") from None


def _beside(path: Path) -> str:
    """What lies where a recipe was looked for, and how it would be one."""
    if (path / "recipe.yaml").is_file():
        return f"; {path} is a run, and its recipe is {path / 'recipe.yaml'}"
    if path.is_dir():
        return f"; {path} is a folder, and a recipe is a file, NAME.yaml"
    return f"; the file {path} would be one if it were called {path}.yaml" if path.is_file() else ""


def called(text: str) -> tuple[str, str]:
    """A recipe and the name that it goes by among others: `RECIPE@NAME`, else its own, or its file's.

    Raises RecipeError for a name that is no folder's.
    """
    recipe, at, name = text.rpartition("@")
    if not at or Path(text).is_file():
        path = Path(text)
        return text, path.stem if path.suffix in (".yaml", ".yml") else path.name
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
        raise RecipeError(f"{text}: a recipe is called by letters, digits, '_', '-' and '.', as in {recipe}@weak")
    return recipe, name
