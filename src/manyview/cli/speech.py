"""Where commands speak: results on stdout, all else on stderr, a line each."""

from __future__ import annotations

import sys

from rich.console import Console

from manyview.errors import shown

console = Console(highlight=False, markup=False)


def tell(what: object) -> None:
    """One line on stderr."""
    print(f"manyview: {shown(what)}", file=sys.stderr, flush=True)
