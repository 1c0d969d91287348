"""What a conversion did with every key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group


@dataclass
class ConversionReport:
    """Every key of the source is in exactly one of ``kept``, ``renamed`` and ``dropped``.

    Attributes:
        source, source_sha256: the file.
        direction: 'official to mmssmprune' or 'mmssmprune to official'.
        architecture, task: what the weights belong to.
        kept: keys with the same name on both sides.
        renamed: old name to new name.
        adapted: names in the result whose values were changed (a position embedding for another grid), and how.
        dropped: name in the source to the reason.
        added: name in the result to what it holds and why.
        absent: modules of the config's model, and keys of its backbone, for which the source has nothing.
        left_entries: entries beside the weights that were left behind, with their type.
        cautions: sentences on what the user has to know.
    """

    source: str
    source_sha256: str
    direction: str
    architecture: str = ''
    task: str = ''
    kept: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    left_entries: dict[str, str] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Number of keys of the source whose values are in the result."""
        return len(self.kept) + len(self.renamed)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def tables(self, *, every_key: bool = False) -> Group:
        """For the terminal: keys in groups, or ``every_key`` in a row of its own."""
        from rich.console import Group  # here: backbones are loaded where there is no rich
        from rich.table import Table

        table = Table(title=f'{self.architecture}: {self.task}, {self.direction}')
        table.add_column('what')
        table.add_column('keys', justify='right')
        table.add_column('which', overflow='fold')
        table.add_column('how', overflow='fold')
        for what, rows in self._rows().items():
            for count, which, how in rows if every_key else _grouped(rows):
                table.add_row(what, str(count), which, how)
        parts: list[Any] = [table]
        if self.absent:
            parts.append(f'Not in the file, so they start from their own initialisation: {", ".join(self.absent)}.')
        if self.left_entries:
            entries = ', '.join(f'{name} ({kind})' for name, kind in self.left_entries.items())
            parts.append(f'Entries of the file beside its weights, left behind: {entries}.')
        parts += [f'Caution: {sentence}' for sentence in self.cautions]
        return Group(*parts)

    def _rows(self) -> dict[str, list[tuple[int, str, str]]]:
        return {
            'kept': [(1, key, 'same name') for key in self.kept],
            'renamed': [(1, old, f'to {new}') for old, new in self.renamed.items()],
            'adapted': [(1, key, how) for key, how in self.adapted.items()],
            'dropped': [(1, key, reason) for key, reason in self.dropped.items()],
            'added': [(1, key, reason) for key, reason in self.added.items()],
        }


def _grouped(rows: Iterable[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Rows whose keys begin alike, and for which the same was done, as one row: how many, their start, the first."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for _, key, how in rows:
        done = f'to {_start(how.removeprefix("to "))}' if how.startswith('to ') else how
        groups.setdefault((_start(key), done), []).append((key, how))
    return [
        (1, *members[0]) if len(members) == 1 else (len(members), f'{start}*', done + '*' * done.startswith('to '))
        for (start, done), members in groups.items()
    ]


def _start(key: str) -> str:
    """``backbone.layers.`` of ``backbone.layers.0.norm.weight``, ``ema_`` of the copies that an EMA hook leaves."""
    if key.startswith('ema_'):
        return 'ema_'
    if key.startswith('backbone.net.'):
        return 'backbone.net.' + _start(key.removeprefix('backbone.net.'))
    parts = key.split('.')
    return '.'.join(parts[:1] if len(parts) < 3 or parts[1].isdigit() else parts[:2]) + '.'
