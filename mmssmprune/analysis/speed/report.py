"""A benchmark's report: Markdown to read, JSON to compute with, written whole after every case."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssmprune.analysis.results import write_atomically

from .timing import OUT_OF_MEMORY

Row = dict[str, Any]


def shown_command(script: str) -> str:
    """The command of this process, without the names of its output files."""
    arguments = list(sys.argv[1:])
    for option in ('--out', '--json'):
        if option in arguments:
            at = arguments.index(option)
            del arguments[at : at + 2]
    return shlex.join(['python', f'tools/benchmarks/{Path(script).name}', *arguments])


@dataclass
class Column:
    """A column: which entry of a row it shows under which title, with how many digits; ``-`` where there is none."""

    key: str
    title: str
    digits: int | None = None

    def show(self, row: Row) -> str:
        """The cell of a row."""
        value = row.get(self.key)
        if value is None:
            return '-'
        return str(value) if self.digits is None or isinstance(value, str) else f'{value:.{self.digits}f}'


@dataclass
class Table:
    """A table with a title above it and, below it, what a reader has to know."""

    title: str
    columns: Sequence[Column]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Title, table and notes."""
        rules = [' --- ' if column.digits is None else ' ---: ' for column in self.columns]
        lines = [f'### {self.title}', '', _line(column.title for column in self.columns), f'|{"|".join(rules)}|']
        lines += [_line(column.show(row) for column in self.columns) for row in self.rows]
        for note in dict.fromkeys(self.notes):
            lines += ['', note]
        return '\n'.join(lines)


def _line(cells: Any) -> str:
    return f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'


@dataclass
class Report:
    """All tables of a run. ``is_complete`` turns true at the end, so that an interrupted run shows."""

    title: str
    command: str
    machine: dict[str, Any]
    method: str
    tables: dict[str, Table] = field(default_factory=dict)
    is_complete: bool = False

    def markdown(self) -> str:
        """The whole report."""
        head = [f'## {self.title}', '', f'`{self.command}`', '']
        head += [', '.join(f'{name} {value}' for name, value in self.machine.items()) + '.', '', self.method]
        if not self.is_complete:
            head += ['', '**This run has not ended: rows are missing.**']
        tables = [table.markdown() for table in self.tables.values() if table.rows]
        return '\n\n'.join(['\n'.join(head), *tables]) + '\n'

    def save(self, markdown: Path | None, numbers: Path | None) -> None:
        """Write the files that are asked for."""
        if markdown:
            write_atomically(markdown, self.markdown())
        if numbers:
            tables = {name: table.rows for name, table in self.tables.items()}
            content = dict(title=self.title, command=self.command, machine=self.machine, complete=self.is_complete)
            write_atomically(numbers, json.dumps({**content, 'tables': tables}, indent=1))

    def finish(self, markdown: Path | None, numbers: Path | None) -> None:
        """Mark it complete, write it and print it; exit code 1 if a contestant failed for more than want of memory."""
        self.is_complete = True
        self.save(markdown, numbers)
        print(self.markdown(), end='')
        rows = [row for table in self.tables.values() for row in table.rows]
        if any(row.get('failure') not in (None, OUT_OF_MEMORY) for row in rows):
            sys.exit(1)
