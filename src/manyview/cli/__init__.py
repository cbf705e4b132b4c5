"""The command line, one file a family of commands; `arguments` and `speech` are what they share.

Mistakes are one line and exit code 2; `key=value` overrides a recipe everywhere. What a command needs is imported by
the command, after what can be refused without: torch alone takes two seconds.
"""

from manyview.cli.entry import app, main

__all__ = ["app", "main"]
