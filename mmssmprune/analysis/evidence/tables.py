"""What tables and figures show: means over seeds, paired differences, and what may be said about them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from .plan import Run, Study, StudySetting
from .records import Record

BETTER, WORSE, NO_DIFFERENCE, FEW_SEEDS = 'better', 'worse', 'no difference beyond the spread', 'few seeds'
MIN_SEEDS = 3
CONFIDENCE = 0.95
# Of each task: how tables call its metrics, the record's column with one, and the kind of its values per class.
_METRICS = {
    'seg': [('mIoU', 'mIoU', 'IoU')],
    'box': [('bbox mAP', 'coco/bbox_mAP', 'bbox')],
    'det': [('bbox mAP', 'coco/bbox_mAP', 'bbox'), ('segm mAP', 'coco/segm_mAP', 'segm')],
}
RecordsOfRows = dict[tuple[str, str], list[Record]]  # by label and phase


class Mean(NamedTuple):
    """Over seeds, with the sample standard deviation (None for a single value)."""

    mean: float
    sd: float | None


class Difference(NamedTuple):
    """Mean of paired differences with the t-interval around it (None below `MIN_SEEDS`) and the verdict in words."""

    mean: float
    interval: tuple[float, float] | None
    verdict: str


class Cell(NamedTuple):
    """A row in one phase."""

    runs: int
    mean: Mean | None
    small: Mean | None  # over the classes of small objects, or the AP of small boxes or masks
    difference: Difference | None  # to the row that it is compared with


class Table(NamedTuple):
    """A study in one setting by one of its metrics: one table, or one panel of a figure."""

    study: Study
    setting: StudySetting
    metric: str
    costs: dict[str, tuple[float, float]]  # label -> backbone FLOPs and the share saved of the dense ones
    cells: dict[tuple[str, str], Cell]  # by label and phase
    has_small: bool  # whether it is known what small objects have

    @property
    def phases(self) -> tuple[str, ...]:
        """Those of the study in which anything was run that is compared."""
        run = {phase for (label, phase), cell in self.cells.items() if cell.runs and label in self.study.compared}
        return tuple(phase for phase in self.study.phases if phase in run)


def mean_of(values: Sequence[float]) -> Mean | None:
    """Summarise one value per seed; None of none."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean, None)
    return Mean(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)))


def paired_difference(values: Mapping[Hashable, float], reference: Mapping[Hashable, float]) -> Difference | None:
    """``values`` minus ``reference``, pair by pair; what only one of them has is left out.

    The interval is the 95 % t-interval of the mean difference. It is not corrected for the number of comparisons.
    """
    differences = [values[key] - reference[key] for key in values if key in reference]
    n = len(differences)
    if n == 0:
        return None
    mean, sd = mean_of(differences)
    if n < MIN_SEEDS:
        return Difference(mean, None, FEW_SEEDS)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    low, high = mean - half, mean + half
    return Difference(mean, (low, high), BETTER if low > 0 else WORSE if high < 0 else NO_DIFFERENCE)


def make_tables(study: Study, settings: Iterable[StudySetting], records: Sequence[Record]) -> list[Table]:
    """One per setting of the study and metric of its task."""
    tables = []
    for setting in filter(study.fits, settings):
        found = _records_of_rows(study, setting, records)
        costs = {label: (of[0]['flops'], of[0]['reduction']) for (label, _), of in reversed(found.items()) if of}
        for title, column, kind in _METRICS[setting.task]:
            small = _columns_of_small(setting, column, kind)
            cells = _make_cells(study, found, column, small)
            tables.append(Table(study, setting, title, costs, cells, bool(small)))
    return tables


def _columns_of_small(setting: StudySetting, column: str, kind: str) -> list[str]:
    """What the mean over small objects is taken of; nothing where a segmentation does not say which they are."""
    return [f'{kind}.{name}' for name in setting.small_classes] if setting.task == 'seg' else [f'{column}_s']


def _records_of_rows(study: Study, setting: StudySetting, records: Sequence[Record]) -> RecordsOfRows:
    """A list for each row and phase, one of a seed."""
    by_series: dict[tuple[str, int], dict[int, Record]] = {}
    for record in records:
        if record['setting'] == setting.name:
            by_series.setdefault((record['series'], record['test']), {})[record['seed']] = record
    return {
        (label, phase): list(by_series.get((Run(setting, row, phase, 0).series, row.test), {}).values())
        for label, row in study.rows.items()
        for phase in row.phases
    }


def _make_cells(study: Study, found: RecordsOfRows, column: str, small: Sequence[str]) -> dict[tuple[str, str], Cell]:
    values = {key: _values(of, [column]) for key, of in found.items()}
    cells = {}
    for (label, phase), of in found.items():
        own, other = values[label, phase], values.get((study.rows[label].against, phase), {})
        means = [mean_of(list(each.values())) for each in (own, _values(of, small))]
        cells[label, phase] = Cell(len(of), *means, paired_difference(own, other))
    return cells


def _values(records: Iterable[Record], columns: Sequence[str]) -> dict[tuple[int, str], float]:
    """Means over columns, where all are defined, by what pairs two runs: the seed and the dense checkpoint."""
    values = {}
    for record in records:
        numbers = [record.get(column) for column in columns]
        if numbers and None not in numbers:
            values[record['seed'], record['dense_checkpoint_hash']] = sum(numbers) / len(numbers)
    return values
