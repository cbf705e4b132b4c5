"""Writes docs/api.md, what Python code may call, from signatures and docstrings:  python docs/make_api.py

The sources are read and not imported, so the page does not hang on what is installed. A test holds the file to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "src"
WIDTH = 88  # columns of a signature, beyond which each argument has a line

HEADER = """# Python

What is meant to be called from Python; all else may change without notice. Made by `docs/make_api.py` from signatures
and docstrings. [Your own loop](own_loop.md) shows `Step` at work, [Words of a recipe](reference.md) lists what a recipe
may say. Shapes stand in brackets: `B` images of a batch, `D` features, `C` classes. What a caller gets wrong raises
`ManyviewError` or `ValueError`, with one line; functions of tensors look at shapes and values, and leave what is no
tensor to Python.
"""
PARTS = {  # heading -> (module, what stands above its names)
    "manyview": ("manyview", ""),
    "manyview.functional": (
        "manyview.functional",
        "Losses and metrics as functions: tensors in, a scalar out, no state.",
    ),
    "manyview.evaluate": (
        "manyview.evaluate",
        "Evaluation as functions of features, scores, labels and pixels, whatever model made them. "
        "[Judging a model](judging.md) has the same as protocols.",
    ),
}
Definition = ast.FunctionDef | ast.ClassDef


def tree_of(module: str) -> ast.Module:
    """A module's syntax tree."""
    path = SOURCES / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))


def public_names(tree: ast.Module) -> list[str]:
    """What `__all__` lists; without it, what is defined here and has no underscore."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return [node.name for node in tree.body if isinstance(node, Definition) and not node.name.startswith("_")]


def definition(module: str, name: str) -> Definition | None:
    """Where a name is defined, through the modules that pass it on; None for what is neither function nor class."""
    tree = tree_of(module)
    for node in ast.walk(tree):
        if isinstance(node, Definition) and node.name == name and node in tree.body:
            return node
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return definition(node.module or "", name) if (node.module or "").startswith("manyview") else None
    return None


def signature(name: str, node: ast.FunctionDef, bound: bool, width: int | None = WIDTH) -> str:
    """`name(argument: kind = default, …) -> kind`, over several lines beyond the width. bound: without self."""
    result = "" if node.returns is None or node.name == "__init__" else f" -> {ast.unparse(node.returns)}"
    parts = _apart(ast.unparse(node.args))[1 if bound else 0 :]
    line = f"{name}({', '.join(parts)}){result}"
    if width is None or len(line) <= width:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){result}"])


def _apart(arguments: str) -> list[str]:
    """Arguments one by one: at commas outside brackets and quotes."""
    parts, depth = [""], 0
    for char in arguments:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    spaced = [re.sub(r"^(\w+: [^=]*[^= ])=", r"\1 = ", part.strip()) for part in parts]
    return [part for part in spaced if part]


def prose(text: str) -> str:
    """A docstring as Markdown: one kind of code mark, and nothing outside it that Markdown would take as its own."""
    blocks = []
    for block in text.replace("``", "`").split("\n\n"):
        if block.startswith(("    ", ">>>")):
            lines = [line.removeprefix("    ") for line in block.split("\n")]
            blocks.append("\n".join(["```python", *lines, "```"]))
        else:
            pieces = re.split(r"(`[^`]*`)", block)
            blocks.append("".join(p if p.startswith("`") else _plain(p) for p in pieces))
    return "\n\n".join(blocks)


def _plain(text: str) -> str:
    """Text whose stars are products, but for those around *words*."""
    starred = re.split(r"((?<!\w)\*\w+(?: \w+)*\*(?!\w))", text.replace("<", "&lt;"))
    return "".join(piece if n % 2 else piece.replace("*", r"\*") for n, piece in enumerate(starred))


def is_property(node: ast.FunctionDef) -> bool:
    """Whether it is read without a call."""
    return any(ast.unparse(one).rpartition(".")[2] in ("property", "cached_property") for one in node.decorator_list)


def entry(name: str, node: Definition) -> Iterator[str]:
    """Heading, signature and docstring; of a class its public methods, too."""
    yield f"### `{name}`\n"
    if isinstance(node, ast.FunctionDef):
        yield f"```python\n{signature(name, node, bound=False)}\n```\n"
        yield prose(ast.get_docstring(node) or "") + "\n"
        return
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
    start = next((one for one in methods if one.name == "__init__"), None)
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    if start is not None:
        yield f"```python\n{signature(name, start, bound=True)}\n```\n"
    yield prose(ast.get_docstring(node) or "") + "\n"
    for one in fields:
        yield f"- **`{ast.unparse(one.target)}: {ast.unparse(one.annotation)}`**"
    for method in methods:
        text = ast.get_docstring(method)
        if method.name.startswith("_") or not text:
            continue
        call = method.name if is_property(method) else signature(method.name, method, bound=True, width=None)
        yield f"- **`{call}`** " + " ".join(prose(text).split())
    yield ""


def api() -> str:
    """The whole page."""
    parts = dict(PARTS)
    for path in sorted((SOURCES / "manyview" / "integrations").glob("[a-z]*")):
        module = f"manyview.integrations.{path.stem}"
        parts[module] = (module, prose(ast.get_docstring(tree_of(module)) or ""))
    lines = [HEADER]
    for heading, (module, above) in parts.items():
        lines += [f"## `{heading}`\n", f"{above}\n" if above else ""]
        found = {name: definition(module, name) for name in public_names(tree_of(module))}
        for name, node in found.items():
            if node is not None:
                lines += entry(name, node)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(api(), encoding="utf-8")
