# SPDX-License-Identifier: Apache-2.0
"""What the command line shows: labelled lines and a progress bar, plain when nobody watches."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator


def open_streams() -> None:
    """Opens /dev/null for each standard stream that is closed, before a file of ours gets its
    number and with it what libraries print there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def show(title: str, rows: dict[str, list[str]]) -> None:
    """A title and labelled lines; bold and dim on a terminal, plain text elsewhere."""
    styled = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    bold, dim, plain = ("\033[1m", "\033[2m", "\033[0m") if styled else ("", "", "")
    print(f"{bold}{printable(title)}{plain}\n")
    for label, lines in rows.items():
        for i, line in enumerate(lines):
            print(f"  {dim}{label if i == 0 else '':<13}{plain}{printable(line)}")


def printable(text: str) -> str:
    """One line without control characters: names in files are not trusted with the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


@contextlib.contextmanager
def progress(total: int, text: str) -> Iterator[Callable[[], None]]:
    """A bar on stderr that goes away when done; nothing unless stderr is a terminal."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining
    except ImportError:
        yield lambda: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), Remaining())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"{text:<18}", total=total)
        yield lambda: bar.advance(task)
