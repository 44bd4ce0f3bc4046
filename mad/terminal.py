"""What a person sees: progress bars on a terminal, plain lines elsewhere, tables."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mad.redaction import hide_in_tracebacks, redactor

if TYPE_CHECKING:
    from mad.config import Option
    from mad.context import Metrics

WIDE = 140
"""columns from which options are shown as a table"""
out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)


class TerminalProgress:
    """A Progress on standard error: one bar per kind of work, or a line every few seconds without a terminal."""

    def __init__(self) -> None:
        self.bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=err,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}
        self._said = 0.0

    def __enter__(self) -> TerminalProgress:
        if err.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if err.is_terminal:
            self.bars.stop()

    def update(self, what: str, done: int | None, total: int, figures: Metrics | None = None) -> None:
        """See :class:`mad.context.Progress`."""
        count = self._done[what] = self._done.get(what, 0) + 1 if done is None else done
        text = "  ".join(f"{k} {number(v)}" for k, v in (figures or {}).items())
        if err.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self.bars.add_task(what, total=total, figures=text)
            self.bars.update(self._tasks[what], completed=count, total=total, figures=text, visible=count < total)
        elif count >= total or time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            err.print(f"{what} {count}/{total}  {text}".rstrip(), soft_wrap=True)


def number(value: Any) -> str:
    """A figure in few characters; NaN and None as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """Print a table; columns named in ``right`` are right-aligned."""
    grid = Table(header_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(columns):
        # What a row is about stays in one piece; numbers and settings give way.
        justify: Literal["left", "right"] = "right" if name in right else "left"
        grid.add_column(name, justify=justify, overflow="fold", no_wrap=place == 0)
    for row in rows:
        grid.add_row(*(escape(number(cell) if not isinstance(cell, str) else cell) for cell in row))
    if title:
        out.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    out.print(grid)


def setup_logging() -> None:
    """Warnings of mad on standard error, one line each; no secrets there, nor in tracebacks."""
    hide_in_tracebacks()
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("mad")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING)
    logger.propagate = False


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redactor()(f"mad: {record.levelname.lower()}: {' '.join(record.getMessage().split())}")


def options_help(usage: str, purpose: str, groups: Sequence[tuple[str, Sequence[Option]]]) -> None:
    """Print every option with its type, default and meaning: a table, or below each other where it would be narrow."""
    out.print(f"usage: {usage} [--option VALUE ...]\n\n{purpose}\n", markup=False)
    for title, options in groups:
        rows = [(f"--{o.name}", o.type, "" if o.default is None else str(o.default), o.help) for o in options]
        if out.width >= WIDE:
            table(title, ("option", "type", "default", "meaning"), rows)
        else:
            out.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
            for name, kind, default, meaning in rows:
                _option_lines(name, kind, f"(default: {default})" if default else "", meaning)
        out.print()


def _option_lines(name: str, kind: str, default: str, meaning: str) -> None:
    kind = " | ".join(part.strip() for part in kind.split("|"))  # so that names stay in one piece
    out.print(Text.assemble((name, "bold"), *(f"  {fact}" for fact in (kind, default) if fact)))
    if meaning:
        out.print(Padding(meaning, (0, 0, 0, 4)), markup=False)
