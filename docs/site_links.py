"""For mkdocs: pages of the site that stand outside docs/, and links between all of them.

Links are written as they lead in the repository, so that they work where a page is read as a file. Here those that
leave docs/ bring what they lead to into the site, and are turned to where it is there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the tests read this file where mkdocs is not installed
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?(?=\))")
HOME = {"README.md": "docs/index.md"}  # what newcomers read first, there and here


def place(path: str) -> str:
    """Where a file of the repository is in the site's sources."""
    return HOME.get(path, path).removeprefix("docs/")


def origin(uri: str) -> str:
    """Where a page of the site is in the repository."""
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def leads_to(target: str, page: str) -> str:
    """The file of the repository that a link of a page (of the repository) means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def outside(page: str) -> set[str]:
    """Files outside docs/ that the links of a page lead to."""
    found = {leads_to(match[2], page) for match in LINK.finditer((ROOT / page).read_text(encoding="utf-8"))}
    return {path for path in found - HOME.keys() if not path.startswith(("docs/", "..")) and (ROOT / path).is_file()}


def moved(text: str, page: str) -> str:
    """A page's text with its links as they lead in the site."""

    def turned(match: re.Match[str]) -> str:
        there = posixpath.relpath(place(leads_to(match[2], page)), posixpath.dirname(place(page)) or ".")
        return f"{match[1]}{there}{match[3] or ''}"

    return LINK.sub(turned, text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside docs/ and is linked, or in the menu."""
    from mkdocs.structure.files import File

    todo = {origin(file.src_uri) for file in files.documentation_pages()} | {"CONTRIBUTING.md", "CHANGELOG.md"}
    done: set[str] = set()
    while todo:
        page = todo.pop()
        done.add(page)
        if not page.startswith("docs/"):
            files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
        if page.endswith(".md"):
            todo |= outside(page) - done
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns a page's links."""
    return moved(markdown, origin(page.file.src_uri))
