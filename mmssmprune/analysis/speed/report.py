"""A benchmark's report: Markdown to read, JSON to compute with, written whole after every case."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssmprune.checkpoints.writing import write_whole

from .machine import describe_machine
from .timing import OUT_OF_MEMORY

Entries = dict[str, Any]


def _shown_command() -> str:
    """The command of this process, without the names of its output files."""
    arguments = list(sys.argv[1:])
    for option in ('--out', '--json'):
        if option in arguments:
            at = arguments.index(option)
            del arguments[at : at + 2]
    return shlex.join(['python', f'tools/benchmarks/{Path(sys.argv[0]).name}', *arguments])


@dataclass
class BenchmarkTable:
    """A table with a title above it and, below it, what a reader has to know.

    Attributes:
        title: the heading.
        columns: by the entry of a row that they show, their titles, and for numbers how many digits. A row without
            that entry shows ``-``.
        rows, notes: what was measured, and sentences about it.
    """

    title: str
    columns: Mapping[str, str | tuple[str, int]]
    rows: list[Entries] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Title, table and notes."""
        columns = {key: (at, None) if isinstance(at, str) else at for key, at in self.columns.items()}
        rules = [' --- ' if digits is None else ' ---: ' for _, digits in columns.values()]
        lines = [f'### {self.title}', '', _line(title for title, _ in columns.values()), f'|{"|".join(rules)}|']
        lines += [_line(_cell(row.get(key), digits) for key, (_, digits) in columns.items()) for row in self.rows]
        for note in dict.fromkeys(self.notes):
            lines += ['', note]
        return '\n'.join(lines)


def _cell(value: Any, digits: int | None) -> str:
    if value is None:
        return '-'
    return str(value) if digits is None or isinstance(value, str) else f'{value:.{digits}f}'


def _line(cells: Any) -> str:
    return f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'


class BenchmarkReport:
    """All tables of a run. ``is_complete`` turns true at the end, so that an interrupted run shows.

    Args:
        title, method: its heading, and how it was measured.
        tables: by name.
        args: of the command line: ``device`` and ``dtype``, and ``out`` and ``json``, where it is written.
    """

    def __init__(self, title: str, method: str, tables: dict[str, BenchmarkTable], args: argparse.Namespace) -> None:
        self.title, self.method, self.tables = title, method, tables
        self.command, self.machine = _shown_command(), describe_machine(args.device, args.dtype)
        self.files = args.out, args.json
        self.is_complete = False

    def markdown(self) -> str:
        """The whole report."""
        head = [f'## {self.title}', '', f'`{self.command}`', '']
        head += [', '.join(f'{name} {value}' for name, value in self.machine.items()) + '.', '', self.method]
        if not self.is_complete:
            head += ['', '**This run has not ended: rows are missing.**']
        tables = [table.markdown() for table in self.tables.values() if table.rows]
        return '\n\n'.join(['\n'.join(head), *tables]) + '\n'

    def save(self) -> None:
        """Write the files that are asked for."""
        markdown, numbers = self.files
        if markdown:
            write_whole(markdown, self.markdown())
        if numbers:
            tables = {name: table.rows for name, table in self.tables.items()}
            content = dict(title=self.title, command=self.command, machine=self.machine, complete=self.is_complete)
            write_whole(numbers, json.dumps({**content, 'tables': tables}, indent=1))

    def finish(self) -> None:
        """Mark it complete, write it and print it; exit code 1 if a contestant failed for more than want of memory."""
        self.is_complete = True
        self.save()
        print(self.markdown(), end='')
        rows = [row for table in self.tables.values() for row in table.rows]
        if any(row.get('failure') not in (None, OUT_OF_MEMORY) for row in rows):
            sys.exit(1)
