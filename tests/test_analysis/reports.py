"""A report as `compare` makes it, with numbers chosen for the tests."""

from __future__ import annotations

from typing import Any


def row(model: str, kind: str, keep_ratio: Any, accuracy: dict[str, float], **more: Any) -> dict[str, Any]:
    return {'model': model, 'kind': kind, 'keep_ratio': keep_ratio, 'accuracy': accuracy, **more}


def cost(backbone: float, share: float, latency: float) -> dict[str, Any]:
    return {
        'flops': {'backbone': int(backbone * 1e9), 'neck': 0, 'heads': int(1e9), 'total': int((backbone + 1) * 1e9)},
        'flops_unsupported': {'aten.grid_sampler_2d.default': 4},
        'padded_shape': [96, 128],
        'proposals': 64,
        'params': {'backbone': 100, 'total': 7_345_678},
        'tokens': {'per_layer': [48], 'mean_share': share},
        'latency': {'model': {'median_ms': latency, 'runs_ms': [latency] * 7}, 'backbone': {'median_ms': latency / 2}},
    }


def make_report() -> dict[str, Any]:
    long = '8xb2-1x_coco-with-a-long-file-name-as-configs-have-them'
    rows = [
        row(f'dense_{long}', 'dense', 1.0, {'bbox mAP': 40.04, 'segm mAP': 36.0}, **cost(4.123, 1.0, 20.0)),
        row(
            f'pruned_{long}',
            'pruned',
            0.7,
            {'bbox mAP': 38.49, 'segm mAP': 35.99},
            **cost(2.9, 0.7251, 15.0),
            accuracy_difference={'bbox mAP': -1.55, 'segm mAP': -0.01},
            backbone_flops_change=2.9 / 4.123 - 1,
        ),
        row(f'pruned_{long}', 'pruned', [0.9, 0.5], {'bbox mAP': 30.0, 'segm mAP': 28.0}, **cost(2.2, 0.5, 12.0)),
        row(f'dense_{long} (untrained)', 'untrained', 1.0, {'bbox mAP': 0.3, 'segm mAP': 0.1}),
    ]
    table = {
        'task': 'detection',
        'title': 'Detection and instance segmentation',
        'metrics': ['bbox mAP', 'segm mAP'],
        'shape': [96, 120],
        'shape_from': 'the command line',
        'num_images': 5000,
        'rows': rows,
    }
    return {
        'tables': [table],
        'device': {'name': 'Some CPU', 'threads': 2},
        'conventions': 'A multiply-add is 1.',
        'versions': {'torch': '2.13.0', 'mmcv': '2.3.6'},
        'command': 'python tools/compare.py a b',
    }
