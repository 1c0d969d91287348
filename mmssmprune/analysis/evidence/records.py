"""Results as flat records, one per test of a run: read from JSON files, and from the CSV file beside the report."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from mmssmprune.analysis.escape import csv_cell, csv_text
from mmssmprune.analysis.json_check import ANYTHING, COUNT, NAME, NOTHING, NUMBER, check

# Columns that every record has; accuracies follow as ``mIoU``, ``IoU.four_red`` and so on, in percent.
_WHOLE = ('seed', 'test', 'num_images', 'flops', 'iterations')
_REAL = ('reduction', 'train_seconds', 'seconds')
_HASHES = ('config_hash', 'data_hash', 'dense_checkpoint_hash', 'checkpoint_hash')
_OF_RUN = ('setting', 'label', 'phase', 'series', 'seed', 'device', 'source', 'created')
_OF_TEST = ('flops', 'reduction', 'num_images', 'seconds')
_LISTS = ('pruning', 'tokens', 'keep_ratios')
_TEST_ID = ('setting', 'series', 'seed', 'test')
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


def read_results(root: Path) -> dict[Path, dict[str, Any] | None]:
    """All results below a folder; None for files that are damaged and count as not there."""
    return {path: read_result(path) for path in sorted(root.glob('*/results/*.json'))}


def read_records(root: Path) -> list[Record]:
    """All whole results below a folder, one record per test."""
    return [record for result in read_results(root).values() if result is not None for record in flatten(result)]


def read_csv(path: Path) -> list[Record]:
    """What `to_csv` wrote into a file; nothing if there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return from_csv(path.read_text(encoding='utf-8')) if path.is_file() else []
    except (ValueError, csv.Error) as error:
        raise ValueError(f'{path} is damaged ({error}); delete it, or make it anew from the results') from error


def join_records(earlier: Sequence[Record], new: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Records of an earlier report with new ones, so that a study can go on where its work dir is not.

    A new record replaces the earlier one of the same test. All rows of a seed start from one dense model: where the new
    records of a seed have another, the earlier ones are no part of it any more.

    Returns:
        All records, and those of the earlier ones that another dense model replaced.
    """
    dense: dict[tuple[str, int], set[str]] = {}
    for record in new:
        dense.setdefault((record['setting'], record['seed']), set()).add(record['dense_checkpoint_hash'])
    kept, replaced = [], []
    for record in earlier:
        known = dense.get((record['setting'], record['seed']))
        (kept if known is None or record['dense_checkpoint_hash'] in known else replaced).append(record)
    joined = {tuple(record[key] for key in _TEST_ID): record for record in (*kept, *new)}
    return list(joined.values()), replaced


def flatten(result: dict[str, Any]) -> list[Record]:
    """One record per test of a result."""
    shared = {key: result[key] for key in _OF_RUN} | {key: result.get(key, '')[:16] for key in _HASHES}
    shared['versions'] = ' '.join(f'{name}=={version}' for name, version in result['versions'].items())
    shared['iterations'] = result['definition'].get('schedule', {}).get('iters', 0)
    shared['train_seconds'] = result['training']['seconds']
    return [shared | {'test': number} | _of_test(test) for number, test in enumerate(result['tests'])]


def _of_test(test: dict[str, Any]) -> Record:
    """What a test measured; a metric that is undefined is left out, as in the CSV file."""
    record = {key: test[key] for key in _OF_TEST} | {key: json.dumps(test[key]) for key in _LISTS}
    for name, value in test['metrics'].items():
        if name.startswith('coco/') and value is not None:
            value = 100 * value if value >= 0 else None  # -1: there are no such objects
        record[name] = value
    for kind, classes in test['per_class'].items():
        record |= {f'{kind}.{name}': value for name, value in classes.items()}
    return {name: value for name, value in record.items() if value is not None}


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
    """What `to_csv` wrote.

    Raises:
        ValueError: a column is missing, a line has more or fewer cells, or what should be a finite number is none.
    """
    lines = csv.DictReader(StringIO(text))
    missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
    if missing:
        raise ValueError(f'it has no column {missing[0]}')
    records = []
    for line in lines:
        if None in line or None in line.values():
            raise ValueError(f'line {lines.line_num} has not as many cells as the first')
        records.append({key: _parsed(key, cell) for key, cell in line.items() if cell != '' or key in COLUMNS})
    return records


def _parsed(name: str, cell: str) -> int | float | str:
    if name in _WHOLE:
        return int(cell)
    if name in COLUMNS and name not in _REAL:
        return csv_text(cell)
    if not math.isfinite(number := float(cell)):
        raise ValueError(f'{name} is {cell}')
    return number
