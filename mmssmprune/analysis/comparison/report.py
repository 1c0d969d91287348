"""A comparison as data: tables of rows, compare.json that keeps them in full precision, and what such a file may hold.

Where an accuracy comes from is its type, so that ours and published ones cannot change places.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from statistics import stdev
from typing import Any

from mmssmprune.analysis import json_check as kinds
from mmssmprune.analysis.json_check import ANYTHING, COUNT, NAME, NOTHING, NUMBER, TEXT, ValueKind, one_of
from mmssmprune.analysis.results import without_nan
from mmssmprune.analysis.software import Software

FILE_NAME = 'compare.json'
FORMAT = 2


@dataclass(frozen=True)
class Measured:
    """Accuracy that this tool measured, in a run whose raw result is kept.

    Attributes:
        percent: metric title -> percent; NaN where the evaluator gave no number.
        raw: the evaluator's own names and numbers.
        num_images: size of the test set.
        device: what it ran on, as `describe_device` says it.
        result: file name of the raw result in ``results/`` of the run's folder.
        per_class: class -> IoU in percent, where the evaluator is mmseg's IoUMetric; NaN where it is undefined.
    """

    percent: Mapping[str, float]
    raw: Mapping[str, float]
    num_images: int
    device: Mapping[str, Any]
    result: str
    per_class: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.result:
            raise ValueError('a measured accuracy needs the file of its raw result')


@dataclass(frozen=True)
class NotRun:
    """No accuracy, because there is nothing trained to test; ``reason`` says why."""

    reason: str


@dataclass(frozen=True)
class Published:
    """Accuracy that others reported, as `find_published` reads it from published.yml; never ours.

    Attributes:
        percent: metric title -> percent.
        citation: where it is from, with an address.
        quoted: only seen in a text that quotes it, not in the source's own table.
        recipe: what it stands for (schedule, input), if the source says it.
    """

    percent: Mapping[str, float]
    citation: str
    quoted: bool = False
    recipe: str = ''


@dataclass(frozen=True)
class ReportRow:
    """One line of a table.

    Attributes:
        model: its name.
        kind: 'dense', 'pruned', 'reference' (a backbone that is not ours and cannot be pruned), or 'untrained' (random
            weights: what chance gives).
        keep_ratio: one number, or one per pruning layer.
        ours: what we measured, or that we did not.
        family, architecture: backbone and size (``PlainMamba-L1``), and the type of the whole model (``MaskRCNN``).
        config, checkpoint: files.
        config_hash, checkpoint_hash, dense_model_hash, data_hash: see `Entry`; None where there is none.
        pruning: the backbone's pruning dict, as the config has it.
        recipe: the pruning with its defaults filled in, without what says how much; None for a dense model.
        training: what the config says about the length of the training, and its hooks.
        software: what measured it.
        cost: FLOPs, parameters and tokens, as `measure_cost` gives them; None for untrained rows.
        latency: ``model`` and ``backbone`` as `measure_latency` gives them and ``device``; where asked for, the same
            two in ``forms`` by the form of the backbone, and the model's times in ``batches`` by batch size, None where
            the memory did not suffice. None where not timed.
        seed, iteration: of the training, as its checkpoint says; None where it does not.
        schedule_hash: see `Entry`; None in results of before it was kept.
        runs: of a row that is the mean over trainings with several seeds, their rows.
        origin: the earlier result that the row was taken from; empty if it is of this run.
        paper: what others published for this config.
        dense: name of the dense baseline; what follows is relative to it and derived anew for every report.
        accuracy_difference: metric title -> percentage points.
        difference_spread: their sample standard deviation seed by seed, where both rows have the same seeds.
        backbone_flops_change: share, negative where FLOPs are saved.
        pareto: metric title -> the axes ('FLOPs', 'latency') on which no other row is better.
    """

    model: str
    kind: str
    keep_ratio: float | list[float]
    ours: Measured | NotRun
    family: str
    architecture: str
    config: str
    config_hash: str
    dense_model_hash: str
    software: Software
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    data_hash: str | None = None
    pruning: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    seed: int | None = None
    iteration: int | None = None
    schedule_hash: str | None = None
    runs: tuple[ReportRow, ...] = ()
    origin: str = ''
    paper: Published | None = None
    dense: str | None = None
    accuracy_difference: Mapping[str, float] = field(default_factory=dict)
    difference_spread: Mapping[str, float] = field(default_factory=dict)
    backbone_flops_change: float | None = None
    pareto: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.ours, (Measured, NotRun)):
            raise TypeError(f'ours holds what this tool measured, or NotRun, not {type(self.ours).__name__}')
        if self.paper is not None and not isinstance(self.paper, Published):
            raise TypeError(f'paper holds what others published, not {type(self.paper).__name__}')

    @property
    def measured(self) -> Mapping[str, float]:
        """Our accuracy, metric title -> percent, where it is a number; empty for a row that was not run."""
        percent = self.ours.percent if isinstance(self.ours, Measured) else {}
        return {title: value for title, value in percent.items() if isfinite(value)}

    @property
    def undefined(self) -> list[str]:
        """Metrics that were measured and came out as no number."""
        return [title for title in getattr(self.ours, 'percent', {}) if title not in self.measured]

    @property
    def spread(self) -> Mapping[str, float]:
        """Sample standard deviation of our accuracy over seeds, metric title -> percentage points."""
        return {title: stdev(run.measured[title] for run in self.runs) for title in self.measured if self.runs}

    @property
    def backbone_flops(self) -> int | None:
        """Of one image at the table's shape."""
        return self.cost['flops']['backbone'] if self.cost else None

    @property
    def model_ms(self) -> float | None:
        """Median latency of the whole model."""
        return self.latency['model']['median_ms'] if self.latency else None

    def label(self) -> str:
        """Model and keep ratio, to name the row in a sentence."""
        return f'{self.model} at keep ratio {format_keep_ratio(self.keep_ratio)}'


@dataclass(frozen=True)
class ReportTable:
    """All rows of one task.

    Attributes:
        task, title: the task's name and what it is called.
        metrics: titles, in order.
        shape: (H, W) at which FLOPs and latency are stated.
        shape_from: who says so.
        rows: in the order of the command line.
        no_latency: why there is none, for rows that have one elsewhere.
    """

    task: str
    title: str
    metrics: tuple[str, ...]
    shape: tuple[int, int]
    shape_from: str
    rows: tuple[ReportRow, ...]
    no_latency: str = ''


@dataclass(frozen=True)
class ComparisonReport:
    """Tables, and what is said about all of them."""

    tables: tuple[ReportTable, ...]
    conventions: str
    software: Software
    command: str = ''
    per_class: bool = False  # whether readers want a table of classes

    @property
    def rows(self) -> list[ReportRow]:
        """Of all tables."""
        return [row for table in self.tables for row in table.rows]


def format_keep_ratio(keep_ratio: float | list[float]) -> str:
    """0.7, or 0.9/0.8/0.7 for a ratio per pruning layer."""
    ratios = keep_ratio if isinstance(keep_ratio, (list, tuple)) else [keep_ratio]
    return '/'.join(f'{ratio:.4g}' if ratio != 1 else '1.0' for ratio in ratios)


# compare.json ---------------------------------------------------------------------------------------------------------


def to_json(report: ComparisonReport) -> str:
    """The report as JSON; ``ours`` says with ``run`` whether it is 'measured' or 'not run'."""
    content = {'format': FORMAT, **asdict(report)}
    for table, shown in zip(content['tables'], report.tables, strict=True):
        table['rows'] = [_row_content(row) for row in shown.rows]
    return json.dumps(without_nan(content), indent=1, allow_nan=False)


def _row_content(row: ReportRow) -> dict[str, Any]:
    ours = {'run': 'measured' if isinstance(row.ours, Measured) else 'not run', **asdict(row.ours)}
    return {**asdict(row), 'ours': ours, 'runs': [_row_content(run) for run in row.runs]}


def is_report(target: str) -> bool:
    """Whether a MODEL of the command line is an earlier result: a *.json, or a folder with compare.json.

    Raises:
        ValueError: the folder could also be a work_dir.
    """
    path = Path(target).expanduser()
    found = path.suffix == '.json' or (path / FILE_NAME).is_file()
    if found and path.suffix != '.json' and any(path.glob('*.py')):
        raise ValueError(
            f'{target} holds a config and {FILE_NAME}; give {target}/{FILE_NAME}, or config.py:checkpoint.pth'
        )
    return found


def read_report(target: str) -> ComparisonReport:
    """Read an earlier result.

    Args:
        target: compare.json, or the folder that holds it.

    Returns:
        The report, with ``origin`` in every row. What a report derives (differences, Pareto front, means over seeds,
        published numbers) is left out; it is made anew.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no report of this tool and version, or damaged.
    """
    path = Path(target).expanduser()
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f'earlier result {path} does not exist')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError):
        raise ValueError(f'earlier result {path} is no whole JSON file') from None
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ValueError(f'{path} was not written by this version of tools/compare.py; make it anew')
    if wrong := kinds.check(content, _REPORT) or _missing_metric(content['tables']):
        raise ValueError(f'earlier result {path} is damaged: {wrong}')
    tables = tuple(_read_table(table, str(target)) for table in content['tables'])
    return ComparisonReport(tables, content['conventions'], Software(**content['software']), content.get('command', ''))


_MADE_ANEW = ('runs', 'paper', 'dense', 'accuracy_difference', 'difference_spread', 'backbone_flops_change', 'pareto')
_READ = [f.name for f in fields(ReportRow) if f.name not in _MADE_ANEW]


def _read_table(content: Mapping[str, Any], origin: str) -> ReportTable:
    rows = []
    for row in (single for shown in content['rows'] for single in shown.get('runs') or [shown]):
        # An earlier result may itself have taken the row from an earlier one.
        known = {'ours': _read_ours(row['ours']), 'origin': row['origin'] or origin}
        kept = {name: row[name] for name in _READ if name in row}
        if row['kind'] == 'dense' and row['cost'] and row['cost']['tokens'] is None:  # as references once were called
            kept['kind'] = 'reference'
        rows.append(ReportRow(**kept | known | {'software': Software(**row['software'])}))
    lists = {name: tuple(content[name]) for name in ('metrics', 'shape')}
    return ReportTable(**{k: content[k] for k in ('task', 'title', 'shape_from')}, **lists, rows=tuple(rows))


def _read_ours(content: Mapping[str, Any]) -> Measured | NotRun:
    if content['run'] == 'not run':
        return NotRun(content['reason'])
    percent, per_class = (
        {name: float('nan') if value is None else value for name, value in content.get(key, {}).items()}
        for key in ('percent', 'per_class')
    )
    return Measured(percent, *(content[name] for name in ('raw', 'num_images', 'device', 'result')), per_class)


def _missing_metric(tables: list[dict[str, Any]]) -> str:
    """What was measured has a number, or null, for every metric of its table."""
    for i, table in enumerate(tables):
        for j, row in enumerate(table['rows']):
            for title in table['metrics']:
                if any(title not in run['ours'].get('percent', {title: 0}) for run in [row, *row.get('runs', ())]):
                    return f'tables[{i}].rows[{j}].ours.percent.{title} is missing'
    return ''


# What a compare.json, and the raw results beside it (RAW_*), have to hold.

_TASK = ValueKind(
    'a name of letters, digits, - and _',
    lambda value: kinds.is_text(value, 50) and value != '' and value.replace('-', 'a').replace('_', 'a').isalnum(),
)
_FILE = ValueKind('the name of a file', lambda value: kinds.is_text(value, 1000) and value != '')
_POSITIVE = ValueKind('a whole number above 0', lambda value: kinds.is_whole(value, 1))
_PIXELS = ValueKind('a whole number from 1 to 1000000', lambda value: kinds.is_whole(value, 1, 10**6))
_SHARE = ValueKind('a number above 0 and at most 1', lambda value: kinds.is_number(value, 0, 1) and value > 0)
_MILLISECONDS = ValueKind('a number, 0 or more', lambda value: kinds.is_number(value, 0))
_SCORE = ValueKind('a number', lambda value: isinstance(value, (int, float)) and not isinstance(value, bool))
# NaN is what an evaluator may have said.
_PERCENT = ValueKind(
    'a number from 0 to 100, or null',
    lambda value: value is None or kinds.is_nan(value) or kinds.is_number(value, 0, 100),
)
_KEEP_RATIO = (_SHARE, [_SHARE])
_SOFTWARE = {'versions': {'*': NAME}, 'source': NAME}
_TIME = {'median_ms': _MILLISECONDS, 'runs_ms': [_MILLISECONDS]}
_FORM = {'model': _TIME, 'backbone': _TIME}
_LATENCY = {**_FORM, 'device': {'name': NAME, '*': ANYTHING}}
_LATENCY |= {'forms?': {'*': _FORM}, 'batches?': {'*': (NOTHING, _TIME)}}
_RECIPE = (NOTHING, {'reduction': NAME})
_COST = {
    'flops': {'backbone': _POSITIVE, 'neck': COUNT, 'heads': COUNT, 'total': _POSITIVE},
    'flops_unsupported': {'*': COUNT},
    'flops_left_out?': TEXT,
    'padded_shape': [_PIXELS],
    'proposals': (NOTHING, COUNT),
    'params': {'backbone': COUNT, 'total': COUNT},
    'tokens': (NOTHING, {'per_layer': [COUNT], 'mean_share': _SHARE}),
    'recipe': _RECIPE,
}
_MEASURED = {'run': one_of('measured'), 'percent': {'*': _PERCENT}, 'raw': {'*': ANYTHING}}
_MEASURED |= {'num_images': COUNT, 'device': {'*': ANYTHING}, 'result': _FILE, 'per_class?': {'*': _PERCENT}}
_ROW = {
    'model': NAME,
    'kind': one_of('dense', 'pruned', 'reference', 'untrained'),
    'keep_ratio': _KEEP_RATIO,
    'ours': ({'run': one_of('not run'), 'reason': TEXT}, _MEASURED),
    **dict.fromkeys(('family', 'architecture', 'config', 'config_hash', 'dense_model_hash'), NAME),
    **dict.fromkeys(('checkpoint', 'checkpoint_hash', 'data_hash'), (NOTHING, NAME)),
    'software': _SOFTWARE,
    'pruning': (NOTHING, {'flops_reduction?': (NOTHING, NUMBER)}),
    'recipe': _RECIPE,
    'training': {'*': ANYTHING},
    'cost': (NOTHING, _COST),
    'latency': (NOTHING, _LATENCY),
    **dict.fromkeys(('seed?', 'iteration?'), (NOTHING, COUNT)),
    'schedule_hash?': (NOTHING, NAME),
    'origin': TEXT,
}
_ROW['runs?'] = [dict(_ROW)]
_TABLE = {'task': _TASK, 'title': NAME, 'metrics': [NAME], 'shape': [_PIXELS], 'shape_from': NAME, 'rows': [_ROW]}
_REPORT = {'conventions': TEXT, 'software': _SOFTWARE, 'command?': TEXT, 'per_class?': ANYTHING, 'tables': [_TABLE]}
RAW_PLAN = {'keep_ratio': _KEEP_RATIO}
RAW_ACCURACY = {'metrics': {'*': _SCORE}, 'num_images': COUNT, 'device': {'*': ANYTHING}, 'per_class?': {'*': _PERCENT}}
RAW_ACCURACY_OF_CLASSES = RAW_ACCURACY | {'per_class': {'*': _PERCENT}}
RAW_COST = _COST
RAW_LATENCY = [_LATENCY]
