"""A page as one HTML file: nothing in it asks for another, and no text in it is taken for markup or a script.

Plotly's library is 4.8 MB of JavaScript, of which the Python package has the whole alone. It is put into the page once,
compressed by gzip as base64 (2.0 MB), and unfolded by the browser's own DecompressionStream (of all since 2023). A
Content-Security-Policy lets run that very text, by its digest, and the page's own script, and nothing else.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from manyview.evaluate.report import Table, cell
from manyview.report.blocks import Chart, Page


def html(page: Page) -> str:
    """The whole page."""
    own, plotly = _own("page.js"), _plotly()
    return _template("page.html").render(
        page=page,
        style=_own("style.css"),
        script=own,
        plotly=base64.b64encode(gzip.compress(plotly.encode(), 9, mtime=0)).decode(),
        policy=policy(page.live),
        **_known(page),
    )


def main_html(page: Page) -> str:
    """What changes of a page that is served: its <main>."""
    return _template("main.html").render(page=page, **_known(page))


@cache
def policy(live: bool) -> str:
    """The Content-Security-Policy. live: the page may ask its own server for itself."""
    scripts = " ".join(f"'sha256-{_digest(text)}'" for text in (_own("page.js"), _plotly()))
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        f"form-action 'none'{'; connect-src ' + chr(39) + 'self' + chr(39) if live else ''}"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _known(page: Page) -> dict[str, Any]:
    return {"charts": {chart.key: chart.drawn for chart in _charts(page.sections)}, "cell": cell}


def _charts(sections: Any) -> list[Chart]:
    found: list[Chart] = []
    for section in sections:
        found += [block for block in section.blocks if isinstance(block, Chart)]
        found += _charts(section.parts)
    return found


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # an extra

    return str(get_plotlyjs())


def _own(name: str) -> str:
    return (resources.files("manyview.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # an extra

    environment = Environment(
        loader=FunctionLoader(_own), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["script_json"] = _script_json
    environment.filters["wordy"] = wordy
    return environment.get_template(name)


def wordy(table: Table) -> list[bool]:
    """Which columns are read as words, from the left, and not as numbers."""
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [any(isinstance(value, str) and value[:1].isalpha() for value in column) for column in columns]


def _script_json(value: Any) -> Any:
    """JSON that can stand in a <script>: no character in it ends that, or begins a comment."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    escaped = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return Markup("".join(escaped.get(letter, letter) for letter in text))


__all__ = ["html", "main_html", "policy"]
