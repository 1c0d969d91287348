"""Results as flat records, one per test of a run: read from JSON files, or from the CSV file beside the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from mmssmprune.analysis.escape import csv_cell, csv_text
from mmssmprune.analysis.json_check import ANYTHING, COUNT, NAME, NOTHING, NUMBER, check

from .plan import Line, Run, Study, StudyFolders, StudySetting
from .stats import Difference, Mean, mean_of, paired_difference

# Columns that every record has; accuracies follow as ``mIoU``, ``IoU.four_red`` and so on, in percent.
_WHOLE = ('seed', 'test', 'num_images', 'flops', 'iterations')
_REAL = ('reduction', 'train_seconds', 'seconds')
_HASHES = ('config_hash', 'data_hash', 'dense_checkpoint_hash', 'checkpoint_hash')
_OF_RUN = ('setting', 'label', 'phase', 'series', 'seed', 'device', 'source', 'created')
_OF_TEST = ('flops', 'reduction', 'num_images', 'seconds')
_LISTS = ('pruning', 'tokens', 'keep_ratios')
COLUMNS = (*_OF_RUN[:5], 'test', *_OF_TEST, *_LISTS, 'iterations', 'train_seconds', 'versions', *_OF_RUN[5:], *_HASHES)

_SCORE = (NOTHING, NUMBER)
_TEST = dict.fromkeys(('flops', 'num_images'), COUNT) | dict.fromkeys(('reduction', 'seconds'), NUMBER)
_TEST |= dict.fromkeys(_LISTS, ANYTHING) | {'metrics': {'*': _SCORE}, 'per_class': {'*': {'*': _SCORE}}}
_RESULT = dict.fromkeys(('setting', 'label', 'phase', 'series', 'device', 'source', 'created'), NAME)
_RESULT |= {f'{name}?': NAME for name in _HASHES} | {'seed': COUNT, 'seconds': NUMBER, 'versions': {'*': NAME}}
_RESULT |= {'definition': {'schedule?': {'iters?': COUNT}}, 'training': {'seconds': NUMBER, 'iterations': COUNT}}
_RESULT |= {'tests': [_TEST]}

Record = dict[str, Any]


def read_result(path: Path) -> dict[str, Any] | None:
    """The result of a run, None where there is none or only a damaged one: that run is still to be done."""
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    return None if check(result, _RESULT) else result


def damaged_results(folders: StudyFolders) -> list[Path]:
    """Files of results that count as not there."""
    return [path for path in folders.results() if read_result(path) is None]


def read_records(folders: StudyFolders, csv_file: Path) -> list[Record]:
    """All whole results in ``folders``; if there are none, those in ``csv_file``.

    Raises:
        ValueError: that file is damaged.
    """
    results = map(read_result, folders.results())
    records = [record for result in results if result is not None for record in flatten(result)]
    if records or not csv_file.is_file():
        return records
    try:
        return from_csv(csv_file.read_text(encoding='utf-8'))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f'{csv_file} is damaged ({error}); delete it, or make it anew from the results') from error


def flatten(result: dict[str, Any]) -> list[Record]:
    """One record per test of a result."""
    shared = {key: result[key] for key in _OF_RUN} | {key: result.get(key, '')[:16] for key in _HASHES}
    shared['versions'] = ' '.join(f'{name}=={version}' for name, version in result['versions'].items())
    shared['iterations'] = result['definition'].get('schedule', {}).get('iters', 0)
    shared['train_seconds'] = result['training']['seconds']
    return [shared | _of_test(number, test) for number, test in enumerate(result['tests'])]


def _of_test(number: int, test: dict[str, Any]) -> Record:
    record = {key: test[key] for key in _OF_TEST} | {key: json.dumps(test[key]) for key in _LISTS}
    accuracies = {}
    for name, value in test['metrics'].items():
        accuracies[name] = 100 * value if name.startswith('coco/') and value is not None else value
    for kind, classes in test['per_class'].items():
        accuracies |= {f'{kind}.{name}': value for name, value in classes.items()}
    return record | {'test': number} | accuracies


def to_csv(records: Sequence[Record]) -> str:
    """One line per record, in a fixed order."""
    accuracies = sorted({name for record in records for name in record} - set(COLUMNS))
    out = StringIO()
    writer = csv.DictWriter(out, [*COLUMNS, *accuracies], lineterminator='\n')
    writer.writeheader()
    for record in sorted(records, key=lambda r: (r['setting'], r['phase'], r['series'], r['seed'], r['test'])):
        shown = {name: round(value, 6) if isinstance(value, float) else value for name, value in record.items()}
        writer.writerow({name: csv_cell(value) for name, value in shown.items()})
    return out.getvalue()


def from_csv(text: str) -> list[Record]:
    """What `to_csv` wrote."""
    return [
        {name: _parsed(name, value) for name, value in line.items() if value != '' or name in COLUMNS}
        for line in csv.DictReader(StringIO(text))
    ]


def _parsed(name: str, value: str) -> Any:
    if name in _WHOLE:
        return int(value)
    return csv_text(value) if name in COLUMNS and name not in _REAL else float(value)


# Looked up by the lines of tables -------------------------------------------------------------------------------------

Reading = Callable[[Record], float | None]


@dataclass(frozen=True)
class MetricOfSetting:
    """A setting seen by one of its main metrics: one table, or one panel of a figure.

    Attributes:
        setting: the setting.
        title: how tables call the metric.
        column: the record's column with it.
        kind: of its values per class: 'IoU', 'bbox' or 'segm'.
    """

    setting: StudySetting
    title: str
    column: str
    kind: str

    def main(self, record: Record) -> float | None:
        """The metric, in percent."""
        return record.get(self.column)

    def far(self, record: Record) -> float | None:
        """Its mean over the classes that need a far marker; None where one is undefined."""
        values = [record.get(f'{self.kind}.{name}') for name in self.setting.far_classes]
        return None if not values or any(value is None for value in values) else sum(values) / len(values)


def metrics_of(settings: Iterable[StudySetting], study: Study) -> list[MetricOfSetting]:
    """One per setting of the study and main metric."""
    main = {
        'seg': [('mIoU', 'mIoU', 'IoU')],
        'det': [('bbox mAP', 'coco/bbox_mAP', 'bbox'), ('segm mAP', 'coco/segm_mAP', 'segm')],
    }
    return [
        MetricOfSetting(setting, *words) for setting in settings if study.fits(setting) for words in main[setting.task]
    ]


class Book:
    """Records by setting, series (row, phase and schedule), test and seed."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.all = list(records)
        self._found: dict[tuple[str, str, int], dict[int, Record]] = {}
        for record in records:
            key = (record['setting'], record['series'], record['test'])
            self._found.setdefault(key, {})[record['seed']] = record

    def of(self, setting: StudySetting, line: Line, phase: str) -> dict[int, Record]:
        """Seed -> record of a line."""
        return self._found.get((setting.name, Run(setting, line.row, phase, 0).series, line.test), {})

    def mean(self, setting: StudySetting, line: Line, phase: str, read: Reading) -> Mean | None:
        """Mean over seeds; None where nothing was run."""
        return mean_of(list(_readings(self.of(setting, line, phase), read).values()))

    def difference(
        self, setting: StudySetting, line: Line, other: Line, phase: str, read: Reading
    ) -> Difference | None:
        """``line`` minus ``other``, only between runs that started from the same dense checkpoint."""
        mine, theirs = self.of(setting, line, phase), self.of(setting, other, phase)
        dense = 'dense_checkpoint_hash'
        same = {seed: theirs[seed] for seed in mine if seed in theirs and mine[seed][dense] == theirs[seed][dense]}
        return paired_difference(_readings({seed: mine[seed] for seed in same}, read), _readings(same, read))

    def cost(self, setting: StudySetting, line: Line) -> tuple[float, float] | None:
        """Backbone FLOPs and the share saved of the dense ones; None where nothing was run."""
        records = (record for phase in line.row.phases for record in self.of(setting, line, phase).values())
        return next(((record['flops'], record['reduction']) for record in records), None)

    def has(self, study: Study, setting: StudySetting) -> bool:
        """Whether anything of a study was run in a setting."""
        return any(self.of(setting, line, phase) for line in study.lines for phase in study.phases)


def _readings(records: dict[int, Record], read: Reading) -> dict[int, float]:
    values = {seed: read(record) for seed, record in records.items()}
    return {seed: value for seed, value in values.items() if value is not None}
