"""Every link, command and snippet of the pages is tried: what they name exists, what they show runs."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import typer.main

import manyview
import pages
from commands import manyview as run
from manyview.cli import app
from manyview.evaluate.protocols import parse_protocols
from manyview.load import load_recipe, packaged_recipes, parse_recipe
from manyview.recipe.find import called
from manyview.recipe.recipe import Recipe
from manyview.recipe.strict_yaml import read_yaml
from manyview.show.usage import USAGE
from manyview.words.load import words_of
from pages import PAGES, ROOT

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
STANDS_FOR = {"RECIPE": "tied_cifar10", "NAME": "tied_cifar10"}  # what pages write where any recipe is meant
ON_PAPER: set[str] = set()  # see test_docs
REST = {  # what a piece of a recipe is completed by
    "views": {
        "a": {"from": "image", "make": "crop(32) | flip | jitter(0.4, 0.4, 0.4, 0.1)"},
        "b": {"like": "a"},
    },
    "branches": {"net": {"backbone": "cresnet20"}},
    "relations": ["cross_entropy(logits(a), logits(b))"],
    "train": {"epochs": 1},
}


@by_page
def test_links_lead_somewhere(page):
    for path, anchor in pages.links(page):
        if "://" in path or path.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} points to {path}"
        assert not anchor or anchor in pages.anchors(target), f"{page.name} points to {path}#{anchor}"


# ------------------------------------------------------------------------------------------------------------ commands


@cache
def command_line():
    """The whole command line, as typer makes it."""
    return typer.main.get_command(app)


def command_of(words):
    """(command, what follows its name) of words after `manyview`; LookupError for one that does not exist."""
    command, rest = command_line(), list(words)
    while hasattr(command, "list_commands") and not (rest and rest[0].startswith("-")):
        context = command.make_context("manyview", [], resilient_parsing=True)
        found = command.get_command(context, rest[0]) if rest else None
        if found is None:
            raise LookupError(f"no command {' '.join(words)}")
        command, rest = found, rest[1:]
    return command, rest


def flags_of(command) -> set[str]:
    """Every option of a command."""
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return flags | {"--help", "-h"}


def file_of(page: Path, name: str, folder: Path) -> Path:
    """A file that a page's command names: a block of the page whose first line says so, or one of the repository.

    Or a packaged recipe that was written there by `manyview recipes NAME > FILE`.
    """
    path = folder / Path(name).name
    texts = [block.text for block in pages.blocks(page) if block.file == path.name]
    copied = re.search(rf"manyview recipes (\w+) > {re.escape(name)}", page.read_text(encoding="utf-8"))
    texts += [packaged_recipes()[copied[1]]] if copied else []
    if texts:
        path.write_text(texts[0], encoding="utf-8")
        return path
    found = [*(ROOT / "benchmarks").rglob(Path(name).name), *(ROOT / "examples").rglob(Path(name).name)]
    assert found, f"{page.name} names {name}, which is neither a block of the page nor a file"
    return found[0]


def check_words(page: Path, given: dict, folder: Path) -> None:
    """What the words of a command mean: recipes, overrides, protocols; all that can be told before an image is read."""
    use = [file_of(page, str(one), folder) if str(one).endswith(".py") else one for one in given.get("use") or ()]
    own = words_of(use)
    texts = [*(given.get("overrides") or ()), *(given.get("images") or ()), *(given.get("protocols") or ())]
    named = given.get("recipe")
    names = [named] if isinstance(named, str) and (named.endswith(".yaml") or "/" not in named) else []  # else a run
    if "recipes" in given:
        texts, names = given["recipes"], [text for text in given["recipes"] if "=" not in text]
    texts = [str(text) for text in texts]
    overrides = [text for text in texts if re.match(r"[\w.]+=", text) and not text.startswith("budget=")]
    owned = [re.match(r"([\w-]+):([\w.]+=.*)", text) for text in texts]
    if "protocols" in given:
        further = [text for text in texts if given.get("on") and "/" in text]  # runs, each judged by the same
        parse_protocols([text for text in texts if text not in (*overrides, *further)], "protocol", own)
    for name in names or ["tied_imagenet"] * bool(overrides):
        name, its_own = called(STANDS_FOR.get(name, name))
        its = [match[2] for match in owned if match and match[1] == its_own]
        load_recipe(file_of(page, name, folder) if name.endswith(".yaml") else name, *overrides, *its, use=own)


@by_page
def test_commands_are_commands(page, tmp_path):
    for where, (program, *words) in pages.commands(page):
        if program != "manyview" or words[-1:] in (["--help"], ["-h"], ["--version"]):
            continue
        try:
            command, rest = command_of(words)
            if hasattr(command, "list_commands"):  # options of the command line itself, which do what they say at once
                assert set(rest) <= flags_of(command), where
                continue
            given = command.make_context(words[0], rest).params
            if given.get("resume") and given.get("out") is None:
                del given["recipe"]  # the run's folder, which is no recipe
            check_words(page, given, tmp_path)
        except (USAGE, LookupError, manyview.ManyviewError) as error:
            pytest.fail(f"{where}\n{error}")


@by_page
def test_commands_in_the_text_are_commands(page):
    for code in pages.inline(page):
        program, *words = code.split()
        if program != "manyview" or not words or not re.fullmatch(r"--[a-z-]+|[a-z]+", words[0]):
            continue
        try:
            command, rest = command_of([word for word in words if word not in ("…", "COMMAND")])
        except LookupError as error:
            pytest.fail(f"{page.name}: {code}: {error}")
        flags = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert flags <= flags_of(command), f"{page.name}: {code}"


@by_page
def test_other_commands_name_what_exists(page):
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"(?m)^(\w+) = \[", project.partition("[project.optional-dependencies]")[2]))
    lines = [words for _, words in pages.commands(page)]
    lines += [code.split() for code in pages.inline(page) if re.match(r"make [a-z]|python \S+\.py", code)]
    for program, *words in lines:
        if program == "make":
            assert {word for word in words if re.fullmatch(r"[a-z-]+", word)} <= targets, f"{page.name}: {words}"
        elif program.startswith(("python", "pytest")):
            for word in (word for word in words if re.fullmatch(r"[\w/]+\.py", word) and "/" in word):
                assert (ROOT / word).exists(), f"{page.name} names {word}"
        elif program.startswith("pip"):
            asked = re.findall(r"(?:\.|manyview)\[([\w,]+)\]", " ".join(words))
            assert {extra for group in asked for extra in group.split(",")} <= extras, f"{page.name}: {words}"


def test_cheap_commands_run():
    shown = [words for page in PAGES for _, (program, *words) in pages.commands(page) if program == "manyview"]
    cheap = {tuple(words) for words in shown if words[0] == "recipes" or words[-1] in ("--help", "-h", "--version")}
    for words in cheap | {("recipes",)}:
        code, out, err = run(*(STANDS_FOR.get(word, word) for word in words))
        assert (code, bool(out), err) == (0, True, ""), words


# ------------------------------------------------------------------------------------------------------------ snippets


def test_recipes_load(tmp_path):
    for block in (block for page in PAGES for block in pages.blocks(page, "yaml")):
        raw = read_yaml(block.text)
        if not isinstance(raw, dict) or not raw.keys() <= Recipe.model_fields.keys() or raw.get("title") in ON_PAPER:
            continue
        missing = "".join(f"{key}: {value}\n" for key, value in REST.items() if key not in raw)
        words = [one for one in pages.blocks(block.page, "python") if one.file]
        try:
            parse_recipe(block.text + missing)
        except manyview.ManyviewError as error:
            if not words:
                pytest.fail(f"{block.where}: {error}")
            use = [file_of(block.page, one.file, tmp_path) for one in words]
            parse_recipe(block.text + missing, use=use)


def skip_without(error: ImportError) -> None:
    """Skips a page about what an extra brings, where that is not installed."""
    if "pip install 'manyview[" in str(error):
        pytest.skip(str(error))
    raise error


def names_of_ours(tree: ast.AST):
    """Dotted names of the package that code imports or reaches."""
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imported for alias in node.names}
    root = ours.get("manyview", "manyview")  # a part of the package may go by the name of the whole
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "manyview":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "manyview")
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"manyview(\.\w+)+", ast.unparse(node)):
            yield root + ast.unparse(node).removeprefix("manyview")


def exists(name: str) -> bool:
    """Whether a dotted name is there: a module, or what modules hold."""
    value = manyview
    for at, part in enumerate(name.split(".")[1:], 2):
        if not hasattr(value, part):
            try:
                importlib.import_module(".".join(name.split(".")[:at]))
            except ModuleNotFoundError:
                return False
            except ImportError as error:
                skip_without(error)
        value = getattr(value, part)
    return True


@by_page
def test_snippets_name_what_exists(page):
    for block in pages.blocks(page, "python"):
        if page.name == "api.md":
            continue  # signatures, made from the sources
        for name in names_of_ours(ast.parse(block.text)):
            assert exists(name), f"{block.where}: {name}"


def run_snippets(page: Path, monkeypatch, folder: Path) -> None:
    """A page's blocks of Python, one after another, in a folder that holds the files which the page shows."""
    monkeypatch.chdir(folder)
    for block in pages.blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    module = ModuleType("page")  # which dataclasses look up by its name
    monkeypatch.setitem(sys.modules, "page", module)
    for block in runnable(page):
        try:
            exec(compile("\n" * block.line + block.text, str(page), "exec", dont_inherit=True), vars(module))
        except ImportError as error:
            skip_without(error)


def runnable(page: Path) -> list[pages.Block]:
    """The blocks of Python that a page does not say are not run; api.md has signatures."""
    return [block for block in pages.blocks(page, "python") if not block.why_not and page.name != "api.md"]


@pytest.mark.slow(reason="trains some steps as the pages do")
@pytest.mark.parametrize("page", filter(runnable, PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page, tmp_path, monkeypatch):
    run_snippets(page, monkeypatch, tmp_path)


def test_recipes_named_in_the_text_exist():
    """`tied_cifar10` and its like: what ends as a packaged recipe does must be one."""
    ends = "|".join({name.rpartition("_")[2] for name in packaged_recipes() if "_" in name})
    for page in PAGES:
        named = {code for code in pages.inline(page) if re.fullmatch(rf"[a-z]+(_[a-z0-9]+)*_({ends})", code)}
        assert named <= set(packaged_recipes()), f"{page.name}: {named - set(packaged_recipes())}"


def test_a_reason_stands_right_above_what_is_not_run():
    for page in PAGES:
        told = [block.why_not for block in pages.blocks(page, "python") if block.why_not]
        lines = map(str.strip, page.read_text(encoding="utf-8").splitlines())
        assert told == [match[1] for match in map(pages.NOT_RUN.fullmatch, lines) if match], page.name


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (test_links_lead_somewhere, "[there](nowhere.md)"),
        (test_links_lead_somewhere, "## Here\n[there](#nowhere)"),
        (test_commands_are_commands, "```sh\nmanyview trian quickstart --out runs/a\n```"),
        (test_commands_are_commands, "```sh\nmanyview train quickstrat --out runs/a\n```"),
        (test_commands_are_commands, "    manyview train quickstrat --out runs/a"),
        (test_commands_are_commands, "```sh\nmanyview train quickstart --otu runs/a\n```"),
        (test_commands_are_commands, "```sh\nmanyview train quickstart \\\n    train.epohcs=3 --out runs/a\n```"),
        (test_commands_are_commands, '```sh\nmanyview eval runs/a "knn(q=3)"\n```'),
        (test_commands_are_commands, "```sh\nmanyview compare quickstart quickstart:train.epohcs=3 --out runs/a\n```"),
        (test_commands_in_the_text_are_commands, "`manyview trian`"),
        (test_commands_in_the_text_are_commands, "`manyview train --otu`"),
        (test_other_commands_name_what_exists, "```sh\ncd x && make tset\n```"),
        (test_other_commands_name_what_exists, "```sh\npython docs/nowhere.py\n```"),
        (test_other_commands_name_what_exists, "```sh\npip install 'manyview[nothing]'\n```"),
        (test_snippets_name_what_exists, "```python\nfrom manyview import Setp\n```"),
        (test_snippets_name_what_exists, "```python\nimport manyview\nmanyview.functional.similarty\n```"),
    ],
)
def test_a_page_that_is_wrong_is_found(check, text, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{text}\n", encoding="utf-8")
    more = {"tmp_path": tmp_path} if check is test_commands_are_commands else {}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(page, **more)


def test_snippets_see_the_page_s_files_and_each_other(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "```yaml\n# mine.yaml\na: 1\n```\n```python\ntext = open('mine.yaml').read()\n```\n"
        "<!-- not run: shows a mistake -->\n\n```python\n1 / 0\n```\n```python\nassert 'a: 1' in text\n```\n",
        encoding="utf-8",
    )
    run_snippets(page, monkeypatch, tmp_path)
    page.write_text("```python\n1 / 0\n```\n", encoding="utf-8")
    pages.blocks.cache_clear()
    with pytest.raises(ZeroDivisionError):
        run_snippets(page, monkeypatch, tmp_path)
