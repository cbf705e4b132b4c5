"""The site: every page has its place in the menu, it builds without a warning, and asks nothing of other servers."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from pages import PAGES, ROOT
from site_links import moved, place

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def in_menu(entry) -> list[str]:
    """The pages of a part of the menu."""
    if isinstance(entry, str):
        return [entry]
    return [page for one in (entry if isinstance(entry, list) else entry.values()) for page in in_menu(one)]


def test_every_page_is_in_the_menu_once():
    there = [page.relative_to(ROOT).as_posix() for page in PAGES if page.name != "README.md" or page.parent != ROOT]
    assert sorted(in_menu(CONFIG["nav"])) == sorted(map(place, there))


def test_links_are_turned_to_where_things_are_in_the_site():
    text = "[a](../benchmarks/README.md) [b](log.md#the-gate) [c](../README.md) [d](https://x.org/y) [e](#here)"
    assert moved(text, "docs/results.md") == (
        "[a](benchmarks/README.md) [b](log.md#the-gate) [c](index.md) [d](https://x.org/y) [e](#here)"
    )
    assert moved("[a](docs/log.md) [b](CHANGELOG.md)", "CONTRIBUTING.md") == "[a](log.md) [b](CHANGELOG.md)"
    assert moved("[a](../docs/results.md)", "benchmarks/README.md") == "[a](../results.md)"


def test_make_docs_is_strict():
    """With --quiet mkdocs counts no warning, and passes whatever is wrong."""
    assert "\t$(BIN)/mkdocs build --strict\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_variable_of_ours_is_told():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    read = {*re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", sources), *re.findall(r"\bMANYVIEW_[A-Z_]+\b", sources)}
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    assert read
    assert read <= set(re.findall(r"`([A-Z_]+)`", page))
    assert set(re.findall(r"\bMANYVIEW_[A-Z_]+\b", page)) <= read


class Asked(HTMLParser):
    """What a browser loads by itself to show a page, and what the page leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(given.get("href") or "")


def build(folder: Path) -> None:
    """Builds the site as `make docs` does."""
    if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs the docs extra: make docs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(folder),
    ]  # with --quiet, warnings would not count
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def has_every_page(site: Path) -> None:
    for page in in_menu(CONFIG["nav"]):
        built = re.sub(r"(README|index)\.md$", "index.md", page).removesuffix(".md") + ".html"
        assert (site / built).is_file(), page


def has_what_pages_lead_to(site: Path) -> None:
    for path in site.rglob("*.html"):
        parser = Asked()
        parser.feed(path.read_text(encoding="utf-8"))
        for target in {one.partition("#")[0] for one in [*parser.links, *parser.found]} - {"", "."}:
            if path.name != "404.html" and "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} leads to {target}"
    assert not [*site.rglob("make_*.py"), *site.rglob("__pycache__")]


def asks_nothing_of_other_servers(site: Path) -> None:
    for path in site.rglob("*.html"):
        parser = Asked()
        parser.feed(path.read_text(encoding="utf-8"))
        assert parser.found
        assert not [one for one in parser.found if re.match(r"(https?:)?//", one)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


@pytest.mark.slow(reason="builds the whole site")
def test_the_site(tmp_path):
    """One test, since several workers would build it once each."""
    build(tmp_path)
    has_every_page(tmp_path)
    has_what_pages_lead_to(tmp_path)
    asks_nothing_of_other_servers(tmp_path)
