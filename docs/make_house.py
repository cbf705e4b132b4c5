"""Draws the house into docs/house.svg, and tells what stands against its plan:  python docs/make_house.py

Rooms stand in the order in which they may know each other: a room imports from those below it, and files of one room
from each other without a circle. A test fails on the first import that goes upwards, naming it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "manyview"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("foundation",),
    ("views",),
    ("branches", "data", "optimize"),
    ("relations",),
    ("recipe",),
    ("step",),
    ("evaluate",),
    ("words",),
    ("functional", "load"),
    ("show",),
    ("training",),
    ("export",),
    ("judge",),
    ("compare", "integrations", "selftest"),
    ("report",),
    ("cli",),
    ("__main__",),
)
"""Rooms from the ground up. What stands on one floor does not import each other."""

WHAT = {
    "foundation": "errors, files, grammar, words",
    "views": "ops, draws, rendering",
    "branches": "backbones, heads, teachers",
    "relations": "loss terms, one idea a file",
    "data": "sources, decoding, splits, batches",
    "optimize": "optimisers, schedules, clock",
    "recipe": "text to a checked recipe",
    "step": "a batch in, a loss out",
    "evaluate": "protocols, one a file",
    "words": "words of one's own",
    "functional": "the pure losses and metrics",
    "load": "recipes by name, checked whole",
    "show": "plans, pictures, progress",
    "training": "the loop and what it keeps",
    "export": "a model taken out",
    "judge": "a model opened, judged, asked",
    "compare": "recipes against each other",
    "integrations": "other people's loops",
    "report": "runs as a page to look at",
    "selftest": "one machine against itself",
    "cli": "commands, one family a file",
    "__main__": "python -m manyview",
}


def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name below `manyview`; the package's own is ''."""
    return {
        ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
        for path in sorted(SOURCES.rglob("*.py"))
    }


def room(module: str) -> str:
    """The room that a module stands in; `errors` keeps the short name that callers know."""
    top = module.partition(".")[0]
    return "foundation" if top == "errors" else top


def _typing_only(tree: ast.AST) -> set[int]:
    guarded = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    return {id(inner) for node in guarded for inner in ast.walk(node)}


def imports(module: str, known: Mapping[str, Path]) -> Iterator[tuple[str, int, bool]]:
    """(module, line, whether inside a function) of each import of our own at run time."""
    tree = ast.parse(known[module].read_text(encoding="utf-8"))
    typing = _typing_only(tree)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "manyview":
            base = (node.module or "").removeprefix("manyview").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                yield full if full in known else base, node.lineno, id(node) in inside
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "manyview":
                    yield alias.name.removeprefix("manyview").lstrip("."), node.lineno, id(node) in inside


def upward() -> list[str]:
    """Imports that go up, or across a floor, one line each."""
    height = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    known, found = modules(), []
    for module in known:
        if not module:
            continue  # the package's own names stand above all rooms
        for target, line, _ in imports(module, known):
            if room(target) != room(module) and height.get(room(target), 99) >= height.get(room(module), -1):
                found.append(f"{module}, line {line}, imports {target or 'manyview'}")
    return found


LAZY = ("cli", "", "branches.timm_models")


def hidden(lazy: tuple[str, ...] = LAZY) -> list[str]:
    """Imports of our own inside functions, but for those that spare who need them not a library that takes seconds.

    They are the command line's, which loads nothing before it must; and that of the networks which need timm, beside
    timm's own.
    """
    known = modules()
    return [
        f"{module}, line {line}, imports {target} inside a function"
        for module in known
        if not {module, room(module)} & {*lazy}
        for target, line, inside in imports(module, known)
        if inside
    ]


def circles() -> list[list[str]]:
    """Files that import each other, in as many groups as there are circles (Tarjan's strongly connected components)."""
    known = modules()
    graph = {module: {target for target, _, _ in imports(module, known) if target != module} for module in known}
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target in graph[module] & graph.keys():
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in number:
            visit(module)
    return found


def longest_functions(count: int = 5) -> list[tuple[int, str]]:
    """(lines, where) of the longest functions."""
    found = [
        (node.end_lineno - node.lineno + 1, f"{module}.{node.name}")
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    return sorted(found, reverse=True)[:count]


# ----------------------------------------------------------------------------------------------------------- drawing

WIDTH, HEIGHT, GAP, MARGIN, LANE = 270, 50, 26, 40, 13
COLOURS = {"views": 0, "branches": 0, "relations": 0, "training": 1, "export": 1, "judge": 1, "compare": 1}
FILLS = (("#dceeff", "a noun"), ("#ffe9cf", "an act"), ("#f3f4f6", "what serves them"))
Boxes = Mapping[str, tuple[float, float]]  # left and top of each room


def house() -> str:
    """The rooms as an SVG, the ground floor below, an arrow wherever files of one room import from another.

    What is known through a third room has no arrow of its own.
    """
    known = modules()
    lines = {name: sum(len(p.read_text().splitlines()) for m, p in known.items() if room(m) == name) for name in WHAT}
    files = {name: sum(room(module) == name for module in known) for name in WHAT}
    edges = {(room(m), room(t)) for m in known if m for t, _, _ in imports(m, known) if t and room(t) != room(m)}
    edges = {(one, other) for one, other in edges if one in WHAT and other in WHAT}
    at: dict[str, tuple[float, float]] = {}
    wide = max(map(len, FLOORS))
    for floor, names in enumerate(FLOORS):
        names = tuple(name for name in names if files[name])
        left = (wide - len(names)) * (WIDTH + GAP) / 2
        for place, name in enumerate(names):
            at[name] = (MARGIN + left + place * (WIDTH + GAP), MARGIN + (len(FLOORS) - 1 - floor) * (HEIGHT + GAP))
    width = 2 * MARGIN + wide * WIDTH + (wide - 1) * GAP
    height = 2 * MARGIN + len(FLOORS) * (HEIGHT + GAP) - GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif">',
        '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#8a94a0"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    taken: list[tuple[float, float, float]] = []
    shown = [edge for edge in edges if not _by_another_way(edge, edges)]
    for one, other in sorted(shown, key=lambda edge: (at[edge[1]][1] - at[edge[0]][1], edge)):
        parts.append(
            f'<path d="{_way(one, other, at, width, taken)}" fill="none" stroke="#8a94a0" marker-end="url(#a)"/>'
        )
    for number, (fill, what) in enumerate(FILLS):
        y = MARGIN + 24 * number
        parts.append(f'<rect x="{MARGIN}" y="{y}" width="16" height="14" rx="3" fill="{fill}" stroke="#8a94a0"/>')
        parts.append(f'<text x="{MARGIN + 24}" y="{y + 12}" font-size="11" fill="#57606a">{what}</text>')
    for name, (x, y) in at.items():
        size = f"{files[name]} files, {lines[name]:,} lines" if files[name] > 1 else f"{lines[name]:,} lines"
        fill = FILLS[COLOURS.get(name, 2)][0]
        parts += [
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="{fill}" stroke="#8a94a0"/>',
            f'<text x="{x + 12}" y="{y + 20}" font-size="14" font-weight="600" fill="#1b1f24">{escape(name)}</text>',
            f'<text x="{x + WIDTH - 12}" y="{y + 20}" font-size="10" text-anchor="end" fill="#57606a">{size}</text>',
            f'<text x="{x + 12}" y="{y + 38}" font-size="11" fill="#57606a">{escape(WHAT[name])}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _way(one: str, other: str, at: Boxes, width: float, taken: list[tuple[float, float, float]]) -> str:
    """A path with one vertical, round all rooms between. It leaves and enters at a side where it is not above or below.

    taken: verticals so far, (x, from, to), which it keeps off and joins.
    """
    (x1, y1), (x2, y2) = at[one], at[other]
    middle = HEIGHT / 2

    def cost(x: float) -> float:
        return abs(x - x1 - WIDTH / 2) + abs(x - x2 - WIDTH / 2)

    for x in sorted((LANE * n for n in range(1, int(width / LANE) + 1)), key=cost):
        above, below = x1 < x < x1 + WIDTH, x2 < x < x2 + WIDTH
        start, end = y1 + (HEIGHT if above else middle), y2 + (0 if below else middle)
        spans = [(x, x, start, end)]
        spans += [] if above else [(*sorted((x, x1 + WIDTH / 2)), start, start)]
        spans += [] if below else [(*sorted((x, x2 + WIDTH / 2)), end, end)]
        rooms = [place for name, place in at.items() if name not in (one, other)]
        hit = any(
            left - 6 <= right_x and left + WIDTH + 6 >= left_x and top <= high and top + HEIGHT >= low
            for left, top in rooms
            for left_x, right_x, low, high in spans
        )
        crowded = any(abs(x - lane) < LANE and start <= to and end >= since for lane, since, to in taken)
        if not hit and not crowded:
            taken.append((x, start, end))
            begin = f"M{x} {start}" if above else f"M{x1 + (WIDTH if x > x1 else 0)} {start} L{x} {start}"
            return f"{begin} L{x} {end}" + ("" if below else f" L{x2 + (WIDTH if x > x2 else 0)} {end}")
    raise ValueError(f"no way from {one} to {other}: the margin is too narrow")


def _by_another_way(edge: tuple[str, str], edges: set[tuple[str, str]]) -> bool:
    """Whether a longer way leads there, so that the arrow says nothing new."""
    start, end = edge
    reached, todo = set(), [other for one, other in edges if one == start and other != end]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [other for one, other in edges if one == name]
    return end in reached


def main() -> None:
    """Prints the figures and writes the drawing."""
    for lines, where in longest_functions():
        print(f"{lines:4} lines  {where}")
    print(f"{len(circles())} circles, {len(upward())} upward imports, {len(hidden())} hidden in functions")
    (ROOT / "docs" / "house.svg").write_text(house(), encoding="utf-8")


if __name__ == "__main__":
    main()
