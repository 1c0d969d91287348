"""Results as flat records, one per test of a run: read from JSON files, or from the CSV file beside the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from mmssmprune.analysis.escape import csv_cell, csv_text
from mmssmprune.analysis.json_check import ANYTHING, COUNT, NAME, NOTHING, NUMBER, check

from .plan import Places, Setting

# Columns that every record has; accuracies follow as ``mIoU``, ``IoU.four_red`` and so on, in percent.
_WHOLE = ('seed', 'test', 'num_images', 'flops', 'iterations')
_REAL = ('reduction', 'train_seconds', 'seconds')
_HASHES = ('config_hash', 'data_hash', 'dense_checkpoint_hash', 'checkpoint_hash')
_OF_RUN = ('setting', 'label', 'phase', 'series', 'seed', 'device', 'source', 'created')
_OF_TEST = ('flops', 'reduction', 'num_images', 'seconds')
_LISTS = ('pruning', 'tokens', 'keep_ratios')
COLUMNS = (*_OF_RUN[:5], 'test', *_OF_TEST, *_LISTS, 'iterations', 'train_seconds', 'versions', *_OF_RUN[5:], *_HASHES)

Record = dict[str, Any]


_SCORE = (NOTHING, NUMBER)
_TEST = dict.fromkeys(('flops', 'num_images'), COUNT) | dict.fromkeys(('reduction', 'seconds'), NUMBER)
_TEST |= dict.fromkeys(_LISTS, ANYTHING) | {'metrics': {'*': _SCORE}, 'per_class': {'*': {'*': _SCORE}}}
_RESULT = dict.fromkeys(('setting', 'label', 'phase', 'series', 'device', 'source', 'created'), NAME)
_RESULT |= {f'{name}?': NAME for name in _HASHES} | {'seed': COUNT, 'seconds': NUMBER, 'versions': {'*': NAME}}
_RESULT |= {'definition': {'schedule?': {'iters?': COUNT}}, 'training': {'seconds': NUMBER, 'iterations': COUNT}}
_RESULT |= {'tests': [_TEST]}


def read_result(path: Path) -> dict[str, Any] | None:
    """The result of a run, None where there is none or only a damaged one: that run is still to be done."""
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    return None if check(result, _RESULT) else result


def damaged_results(places: Places) -> list[Path]:
    """Files of results that count as not there."""
    return [path for path in places.results() if read_result(path) is None]


def read_records(places: Places, csv_file: Path) -> list[Record]:
    """All whole results below ``places``; if there are none, those in ``csv_file``.

    Raises:
        ValueError: that file is damaged.
    """
    results = map(read_result, places.results())
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
        writer.writerow({name: csv_cell(_shown(value)) for name, value in record.items()})
    return out.getvalue()


def _shown(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


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


def metrics_of(setting: Setting) -> dict[str, tuple[str, str]]:
    """Main metrics of a setting: title -> (the record's column, the kind of its values per class)."""
    if setting.task == 'seg':
        return {'mIoU': ('mIoU', 'IoU')}
    return {'bbox mAP': ('coco/bbox_mAP', 'bbox'), 'segm mAP': ('coco/segm_mAP', 'segm')}


def far_value(record: Record, kind: str, classes: Iterable[str]) -> float | None:
    """Mean over the classes that need a far marker; None where one is undefined."""
    values = [record.get(f'{kind}.{name}') for name in classes]
    return None if not values or any(value is None for value in values) else sum(values) / len(values)
