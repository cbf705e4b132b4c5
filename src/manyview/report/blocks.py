"""What a page is made of: sections of blocks, plain values alone. How they look is the template's affair.

Texts come from recipes, classes and files of anybody; they are data here, and the template escapes every one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from manyview.evaluate.report import Table


@dataclass(frozen=True)
class Text:
    """A paragraph. told: it says what is not there, and why. small: a remark."""

    text: str
    told: bool = False
    small: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Figures:
    """The few numbers that matter most. each: (value, what it is)."""

    each: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Facts:
    """Names and what is said of them."""

    each: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Rows:
    """A table with a title. note: a line below it. folded: shown when asked for."""

    title: str
    table: Table
    note: str = ""
    folded: bool = False
    kind: ClassVar[str] = "rows"

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width."""
        return len(self.table.columns) > 4


@dataclass(frozen=True)
class Chart:
    """A figure that Plotly draws, and the same as a table.

    key: unlike all others of the page. said: what it shows, for who does not see it. traces, layout: as Plotly has
    them; fonts, colours of text and margins are the page's. table: its numbers.
    """

    key: str
    title: str
    said: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    table: Table
    note: str = ""
    kind: ClassVar[str] = "chart"

    @property
    def drawn(self) -> Mapping[str, Any]:
        """What Plotly is given."""
        return {"data": self.traces, "layout": self.layout}


@dataclass(frozen=True)
class Graph:
    """A drawing as SVG, made and escaped by us. said: the same in words."""

    svg: str
    said: str
    lines: Sequence[str] = ()
    kind: ClassVar[str] = "graph"


@dataclass(frozen=True)
class Picture:
    """An image as a `data:` address. alt: what it shows. lines: what stands below it. title: above it."""

    address: str
    alt: str
    width: int
    height: int
    title: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Strips:
    """Rows of pictures, each row with a name. lead: a picture beside all of them."""

    title: str
    rows: Sequence[tuple[str, Sequence[Picture]]]
    lead: Picture | None = None
    note: str = ""
    kind: ClassVar[str] = "strips"


@dataclass(frozen=True)
class Code:
    """A text to be read or copied as it is. folded: shown when asked for."""

    title: str
    text: str
    folded: bool = False
    kind: ClassVar[str] = "code"


Block = Text | Figures | Facts | Rows | Chart | Graph | Strips | Code


@dataclass(frozen=True)
class Section:
    """A heading, what stands below it, and sections of its own. key: unlike all others of the page."""

    key: str
    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence[Section] = ()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The whole. about: a line below the title. live: it is served, and asks for itself again."""

    title: str
    about: str
    sections: Sequence[Section] = field(default_factory=tuple)
    live: bool = False
