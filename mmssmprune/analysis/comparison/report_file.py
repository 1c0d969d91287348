"""compare.json: a report in full precision, written, and read again as rows of another comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mmssmprune.analysis.results import without_nan

from .report_schema import check_report
from .rows import Measured, NotRun, Report, ReportRow, ReportTable, Software

NAME = 'compare.json'
FORMAT = 2


def to_json(report: Report) -> str:
    """The report as JSON; ``ours`` says with ``run`` whether it is 'measured' or 'not run'."""
    content = {'format': FORMAT, **asdict(report)}
    for table, shown in zip(content['tables'], report.tables, strict=True):
        for row, shown_row in zip(table['rows'], shown.rows, strict=True):
            row['ours'] = {'run': 'measured' if isinstance(shown_row.ours, Measured) else 'not run', **row['ours']}
    return json.dumps(without_nan(content), indent=1, allow_nan=False)


def is_report(target: str) -> bool:
    """Whether a MODEL of the command line is an earlier result: a *.json, or a folder with compare.json.

    Raises:
        ValueError: the folder could also be a work_dir.
    """
    path = Path(target).expanduser()
    if path.suffix == '.json':
        return True
    found = (path / NAME).is_file()
    if found and any(path.glob('*.py')):
        raise ValueError(f'{target} holds a config and {NAME}; give {target}/{NAME}, or config.py:checkpoint.pth')
    return found


def read_report(target: str) -> Report:
    """Read an earlier result.

    Args:
        target: compare.json, or the folder that holds it.

    Returns:
        The report, with ``origin`` in every row. What a report derives (differences, Pareto front, published
        numbers) is left out; it is made anew.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no report of this tool and version, or damaged.
    """
    path = Path(target).expanduser()
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f'earlier result {path} does not exist')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError):
        raise ValueError(f'earlier result {path} is no whole JSON file') from None
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ValueError(f'{path} was not written by this version of tools/compare.py; make it anew')
    wrong = check_report(content)
    if wrong:
        raise ValueError(f'earlier result {path} is damaged: {wrong}')
    tables = tuple(_table(table, str(target)) for table in content['tables'])
    return Report(tables, content['conventions'], _software(content['software']), content.get('command', ''))


def _table(content: Mapping[str, Any], origin: str) -> ReportTable:
    rows = tuple(_row(row, origin) for row in content['rows'])
    names = ('task', 'title', 'shape_from')
    metrics, shape = tuple(content['metrics']), tuple(content['shape'])
    return ReportTable(**{name: content[name] for name in names}, metrics=metrics, shape=shape, rows=rows)


_DERIVED = ('paper', 'dense', 'accuracy_difference', 'backbone_flops_change', 'pareto')
_READ = tuple(f.name for f in fields(ReportRow) if f.name not in (*_DERIVED, 'ours', 'software', 'origin'))


def _row(content: Mapping[str, Any], origin: str) -> ReportRow:
    return ReportRow(
        **{name: content[name] for name in _READ},
        ours=_ours(content['ours']),
        software=_software(content['software']),
        # An earlier result may itself have taken the row from an earlier one.
        origin=content['origin'] or origin,
    )


def _software(content: Mapping[str, Any]) -> Software:
    return Software(content['versions'], content['source'])


def _ours(content: Mapping[str, Any]) -> Measured | NotRun:
    if content['run'] == 'not run':
        return NotRun(content['reason'])
    percent = {title: float('nan') if value is None else value for title, value in content['percent'].items()}
    return Measured(percent, *(content[name] for name in ('raw', 'num_images', 'device', 'result')))
