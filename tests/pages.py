"""The pages that people read: their blocks of code, words in code, links and headings."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import dropwhile, groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page for place in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*.md") for page in ROOT.glob(place)
)
PROGRAMS = ("manyview", "make", "python", "pytest", "pip")
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its first fence. why_not: the reason that a comment above gives for not running it."""

    page: Path
    line: int
    language: str
    text: str
    why_not: str | None

    @property
    def where(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.name}, line {self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it is, where its first line says so: `# words.py`."""
        named = re.match(r"# ([\w-]+\.\w+)\s*$", self.text.partition("\n")[0])
        return named[1] if named else None


@cache
def blocks(page: Path, language: str | None = None) -> tuple[Block, ...]:
    """The fenced blocks of a page; of one language, or all."""
    found, lines, fence, above = [], [], None, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        mark = re.match(r"(\s*)```(\w*)", line)
        if mark and fence is None:
            fence, lines = (number, mark[1], mark[2]), []
        elif mark and fence is not None:
            reason = NOT_RUN.fullmatch(above.strip())
            found.append(Block(page, fence[0], fence[2], "\n".join(lines) + "\n", reason[1] if reason else None))
            fence, above = None, ""
        elif fence is not None:
            lines.append(line.removeprefix(fence[1]))
        elif re.match(rf"    ({'|'.join(PROGRAMS)}) ", line):  # a command set off by indentation alone
            found.append(Block(page, number, "sh", line.strip() + "\n", None))
        elif line.strip():
            above = line
    assert fence is None, f"{page.name}: the block of line {fence[0]} has no end"
    return tuple(block for block in found if language in (None, block.language))


@cache
def text_of(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    return re.sub(r"(?ms)^\s*```.*?^\s*```\s*?$|^\s*<!--.*?-->\s*?$", "", page.read_text(encoding="utf-8"))


def inline(page: Path) -> list[str]:
    """Words in code within the text, on one line each."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text_of(page))]


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(file or address, anchor) of every link and picture."""
    text = re.sub(r"`[^`]*`", "", text_of(page))
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        path, _, anchor = target.partition("#")
        yield path, anchor


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link into a page may name: those of its headings that the site and GitHub call alike."""
    titles = re.findall(r"(?m)^#+ +(.+?)\s*$", text_of(page))
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles]
    return frozenset(_of_site(title) for title in titles if _of_site(title) == _of_github(title))


def _of_site(title: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def _of_github(title: str) -> str:
    return re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-")


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every command in a page's blocks of shell, without variables before it."""
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\d?>>? *\S+", "", line.removeprefix("$ ")), comments=True)
            for joined, found in groupby(words, lambda word: word in ("&&", ";", "|")):
                one = [*dropwhile(lambda word: re.fullmatch(r"[A-Z_]+=.*", word), found)]
                if one and not joined:
                    yield f"{block.where}: {line.strip()}", [Path(one[0]).name, *one[1:]]
