"""The results by table line: what the report and the figures look up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .plan import Line, Run, Setting, Study
from .records import Record, far_value, metrics_of
from .stats import Difference, Mean, mean_of, paired_difference

Reading = Callable[[Record], float | None]


@dataclass(frozen=True)
class Panel:
    """A setting seen by one of its main metrics: one table, or one panel of a figure."""

    setting: Setting
    title: str
    column: str
    kind: str

    def main(self, record: Record) -> float | None:
        """The metric, in percent."""
        return record.get(self.column)

    def far(self, record: Record) -> float | None:
        """Its mean over the classes that need a far marker."""
        return far_value(record, self.kind, self.setting.far_classes)


def panels_of(settings: Sequence[Setting], study: Study) -> list[Panel]:
    """One panel per setting of the study and main metric."""
    return [
        Panel(setting, title, column, kind)
        for setting in settings
        if study.fits(setting)
        for title, (column, kind) in metrics_of(setting).items()
    ]


class Book:
    """Records by setting, series (row, phase and schedule), test and seed."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.all = list(records)
        self._found: dict[tuple[str, str, int], dict[int, Record]] = {}
        for record in records:
            key = (record['setting'], record['series'], record['test'])
            self._found.setdefault(key, {})[record['seed']] = record

    def of(self, setting: Setting, line: Line, phase: str) -> dict[int, Record]:
        """Seed -> record of a line."""
        return self._found.get((setting.name, Run(setting, line.row, phase, 0).series, line.test), {})

    def mean(self, setting: Setting, line: Line, phase: str, read: Reading) -> Mean | None:
        """Mean over seeds; None where nothing was run."""
        return mean_of(list(_readings(self.of(setting, line, phase), read).values()))

    def difference(self, setting: Setting, line: Line, other: Line, phase: str, read: Reading) -> Difference | None:
        """``line`` minus ``other``, only between runs that started from the same dense checkpoint."""
        mine, theirs = self.of(setting, line, phase), self.of(setting, other, phase)
        same = [
            seed
            for seed in mine.keys() & theirs.keys()
            if mine[seed]['dense_checkpoint_hash'] == theirs[seed]['dense_checkpoint_hash']
        ]
        mine, theirs = ({seed: records[seed] for seed in same} for records in (mine, theirs))
        return paired_difference(_readings(mine, read), _readings(theirs, read))

    def cost(self, setting: Setting, line: Line) -> tuple[float, float] | None:
        """Backbone FLOPs and the share saved of the dense ones; None where nothing was run."""
        for phase in line.row.phases:
            for record in self.of(setting, line, phase).values():
                return record['flops'], record['reduction']
        return None


def has_results(study: Study, panel: Panel, book: Book) -> bool:
    """Whether anything of a study was run in the panel's setting."""
    return any(book.of(panel.setting, line, phase) for line in study.lines for phase in study.phases)


def _readings(records: dict[int, Record], read: Reading) -> dict[int, float]:
    values = {seed: read(record) for seed, record in records.items()}
    return {seed: value for seed, value in values.items() if value is not None}
