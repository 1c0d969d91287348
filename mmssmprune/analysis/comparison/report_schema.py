"""What a compare.json and the raw results beside it hold."""

from __future__ import annotations

from typing import Any

from mmssmprune.analysis.json_check import (
    ANYTHING,
    COUNT,
    NAME,
    NOTHING,
    NUMBER,
    TEXT,
    Kind,
    check,
    is_number,
    is_text,
    is_whole,
    one_of,
)

_TASK = Kind(
    'a name of letters, digits, - and _',
    lambda value: is_text(value, 50) and value != '' and value.replace('-', 'a').replace('_', 'a').isalnum(),
)
_POSITIVE = Kind('a whole number above 0', lambda value: is_whole(value, 1))
_PIXELS = Kind('a whole number from 1 to 1000000', lambda value: is_whole(value, 1, 10**6))
_SHARE = Kind('a number above 0 and at most 1', lambda value: is_number(value, 0, 1) and value > 0)
_MILLISECONDS = Kind('a number, 0 or more', lambda value: is_number(value, 0))
# NaN is what an evaluator may have said.
_PERCENT = Kind(
    'a number from 0 to 100, or null',
    lambda value: value is None or (isinstance(value, float) and value != value) or is_number(value, 0, 100),
)

_SOFTWARE = {'versions': {'*': NAME}, 'source': NAME}
_DEVICE = {'name': NAME, '*': ANYTHING}
_TIME = {'median_ms': _MILLISECONDS, 'runs_ms': [_MILLISECONDS]}
_RECIPE = (NOTHING, {'reduction': NAME})
_MEASURED = {
    'run': one_of('measured'),
    'percent': {'*': _PERCENT},
    'raw': {'*': ANYTHING},
    'num_images': COUNT,
    'device': {'*': ANYTHING},
    'result': Kind('the name of a file', lambda value: is_text(value, 1000) and value != ''),
}
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
_ROW = {
    'model': NAME,
    'kind': one_of('dense', 'pruned', 'untrained'),
    'keep_ratio': (_SHARE, [_SHARE]),
    'ours': ({'run': one_of('not run'), 'reason': TEXT}, _MEASURED),
    **dict.fromkeys(('family', 'architecture', 'config', 'config_hash', 'dense_model_hash'), NAME),
    **dict.fromkeys(('checkpoint', 'checkpoint_hash', 'data_hash'), (NOTHING, NAME)),
    'software': _SOFTWARE,
    'pruning': (NOTHING, {'flops_reduction?': (NOTHING, NUMBER)}),
    'recipe': _RECIPE,
    'training': {'*': ANYTHING},
    'cost': (NOTHING, _COST),
    'latency': (NOTHING, {'model': _TIME, 'backbone': _TIME, 'device': _DEVICE}),
    'origin': TEXT,
}
# Raw results, which are read again when a comparison goes on.
_SCORE = Kind('a number', lambda value: isinstance(value, (int, float)) and not isinstance(value, bool))
RAW_PLAN = {'keep_ratio': (_SHARE, [_SHARE])}
RAW_ACCURACY = {'metrics': {'*': _SCORE}, 'num_images': COUNT, 'device': {'*': ANYTHING}}
RAW_COST = _COST
RAW_LATENCY = [{'model': _TIME, 'backbone': _TIME, 'device': _DEVICE}]
_TABLE = {'task': _TASK, 'title': NAME, 'metrics': [NAME], 'shape': [_PIXELS], 'shape_from': NAME, 'rows': [_ROW]}
REPORT = {'conventions': TEXT, 'software': _SOFTWARE, 'command?': TEXT, 'tables': [_TABLE]}


def check_report(content: Any) -> str:
    """What is wrong with the content of a compare.json, naming the field; empty where nothing is."""
    return check(content, REPORT) or next((w for i, t in enumerate(content['tables']) if (w := _metrics(t, i))), '')


def _metrics(table: dict[str, Any], number: int) -> str:
    """What was measured has a number, or null, for every metric of its table."""
    for i, row in enumerate(table['rows']):
        missing = [title for title in table['metrics'] if title not in row['ours'].get('percent', {title: 0})]
        if missing:
            return f'tables[{number}].rows[{i}].ours.percent.{missing[0]} is missing'
    return ''
