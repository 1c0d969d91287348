"""A report as `compare` makes it, with numbers chosen for the tests and every kind of row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmssmprune.analysis.comparison.derive import derive
from mmssmprune.analysis.comparison.report import ComparisonReport, Measured, NotRun, Published, ReportRow, ReportTable
from mmssmprune.analysis.software import Software

LONG = '8xb2-1x_coco-with-a-long-file-name-as-configs-have-them'
METRICS = ('bbox mAP', 'segm mAP')
DEVICE = {'name': 'Some CPU', 'threads': 2, 'dtype': 'float32', 'scan': 'cpp'}
SOFTWARE = Software({'torch': '2.13.0', 'mmcv': '2.3.6'}, 'abc')
RECIPE = {'reduction': 'prune', 'layers': [1], 'importance': 'clip', 'restoration': 'follow', 'alignment': 'carry'}
PAPER = Published(
    {'bbox mAP': 44.1, 'segm mAP': 39.1}, 'Some Model (official repository), https://example.org', recipe='1x'
)
QUOTED = Published({'bbox mAP': 41.0}, 'Some Paper (paper), https://example.org/paper', quoted=True)


def measured(bbox: float, segm: float, **more: Any) -> Measured:
    values = {'bbox mAP': bbox, 'segm mAP': segm}
    raw = {f'coco/{name.split()[0]}_mAP': value / 100 for name, value in values.items()}
    return Measured(values, raw, 5000, {'name': 'Some CPU', 'threads': 2}, 'accuracy-x.json', **more)


def cost(backbone: float, share: float, recipe: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        'flops': {'backbone': int(backbone * 1e9), 'neck': 0, 'heads': int(1e9), 'total': int((backbone + 1) * 1e9)},
        'flops_unsupported': {'aten.grid_sampler_2d.default': 4},
        'padded_shape': [96, 128],
        'proposals': 64,
        'params': {'backbone': 100, 'total': 7_345_678},
        'tokens': {'per_layer': [48], 'mean_share': share},
        'recipe': recipe,
    }


def latency(ms: float, device: dict[str, Any] = DEVICE) -> dict[str, Any]:
    return {
        'model': {'median_ms': ms, 'runs_ms': [ms] * 7},
        'backbone': {'median_ms': ms / 2, 'runs_ms': [ms / 2] * 7},
        'device': device,
    }


def row(model: str, kind: str, keep_ratio: Any, ours: Measured | NotRun, **more: Any) -> ReportRow:
    defaults = {
        'family': 'PlainMamba-L1',
        'architecture': 'MaskRCNN',
        'config': f'configs/{model}.py',
        'config_hash': f'config of {model}',
        'dense_model_hash': 'l1',
        'software': SOFTWARE,
        'checkpoint': f'{model}.pth',
        'checkpoint_hash': f'weights of {model}',
        'data_hash': 'coco',
        'recipe': more['cost']['recipe'] if more.get('cost') else None,
    }
    return ReportRow(model, kind, keep_ratio, ours, **(defaults | more))


def make_rows() -> list[ReportRow]:
    pruned = {'pruning': {'keep_ratio': 0.7}}
    return [
        row(f'dense_{LONG}', 'dense', 1.0, measured(40.04, 36.0), cost=cost(4.123, 1.0), latency=latency(20.0)),
        row(
            f'pruned_{LONG}',
            'pruned',
            0.7,
            measured(38.49, 35.99),
            cost=cost(2.9, 0.7251, RECIPE),
            latency=latency(15.0),
            **pruned,
        ),
        row(
            f'pruned_{LONG}',
            'pruned',
            [0.9, 0.5],
            measured(30.0, 28.0),
            cost=cost(2.2, 0.5, RECIPE),
            latency=latency(12.0),
            **pruned,
        ),
        row(
            'dense_l2',
            'dense',
            1.0,
            NotRun('no checkpoint in work_dirs/dense_l2'),
            cost=cost(9.0, 1.0),
            checkpoint=None,
            checkpoint_hash=None,
            data_hash=None,
            dense_model_hash='l2',
            family='PlainMamba-L2',
            paper=PAPER,
        ),
        row(f'dense_{LONG} (untrained)', 'untrained', 1.0, measured(0.3, 0.1), checkpoint=None),
    ]


def make_report(rows: list[ReportRow] | None = None, **table: Any) -> ComparisonReport:
    rows = derive(make_rows() if rows is None else rows, METRICS)
    shown = ReportTable('detection', 'Detection and instance segmentation', METRICS, (96, 120), 'the command line', ())
    shown = replace(shown, rows=tuple(rows), **table)
    return ComparisonReport((shown,), 'A multiply-add is 1.', SOFTWARE, 'python tools/compare.py a b')
