"""Marks in a table and what they stand for: sources of published numbers, and rows that were measured otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from string import ascii_lowercase

from .join import software_difference
from .rows import Published, Report, ReportRow

QUOTED = 'quoted'


@dataclass(frozen=True)
class Footnotes:
    """Numbers for sources, letters for rows.

    Attributes:
        sources: text -> ``1``, ``2``, ...
        rows: text -> ``a``, ``b``, ...
        reference: of which software unmarked rows are.
    """

    report: Report
    sources: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = [row for table in self.report.tables for row in table.rows]
        _number(self.sources, (_say_source(row.paper) for row in rows if row.paper), map(str, range(1, 1000)))
        _number(self.rows, (self._say_row(row) for row in rows), _letters())

    def of_source(self, paper: Published) -> str:
        """``[1]``, or ``[1, quoted]`` for a number that was not seen at its source."""
        number = self.sources[_say_source(paper)]
        return f'[{number}, {QUOTED}]' if paper.quoted else f'[{number}]'

    def of_row(self, row: ReportRow) -> str:
        """`` [a]``, or nothing for a row of this run."""
        letter = self.rows.get(self._say_row(row))
        return f' [{letter}]' if letter else ''

    def lines(self) -> list[str]:
        """What the marks stand for, sources first."""
        return [f'[{mark}] {text}' for texts in (self.sources, self.rows) for text, mark in texts.items()]

    def _say_row(self, row: ReportRow) -> str:
        difference = software_difference(row.software, self.report.software)
        said = []
        if row.origin or difference:
            software = f'measured with other software: {difference}' if difference else 'same software'
            said.append(f'Row of the earlier result {row.origin}, {software}.')
        if row.undefined:
            said.append(
                f'The evaluator gave no number (NaN) for {" and ".join(row.undefined)}, which is left out of '
                'differences, Pareto fronts and plots.'
            )
        return ' '.join(said)


def _say_source(paper: Published) -> str:
    recipe = f' Recipe: {paper.recipe}.' if paper.recipe else ''
    if paper.quoted:
        return f'Published, not ours: quoted by others as of {paper.citation}; not seen in that source itself.{recipe}'
    return f'Published, not ours: {paper.citation}.{recipe}'


def _number(marks: dict[str, str], texts: Iterable[str], names: Iterable[str]) -> None:
    marks.update(zip(dict.fromkeys(text for text in texts if text), names, strict=False))


def _letters() -> Iterable[str]:
    yield from ascii_lowercase
    yield from (first + second for first in ascii_lowercase for second in ascii_lowercase)
