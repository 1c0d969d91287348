"""The set of configs is complete, and a pruned config differs from its dense one in nothing but the pruning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from config_files import PLAIN_MAMBA, REAL, VIM, VMAMBA

from mmssmprune.engine.runner_setup import load_config

COCO, LSJ = '8xb2-1x_coco', '8xb8-lsj-100e_coco-1024x1024'
ADE_160K, ADE_60K = '8xb2-160k_ade20k-512x512', '4xb8-60k_ade20k-512x512'
LIGHT = 'semantic-fpn_8xb2-80k_ade20k-512x512'
# (folder, models, head with schedule and data, percent of FLOPs saved at (H, W))
TABLE = [
    (PLAIN_MAMBA, [f'plain-mamba-adapter-l{i}' for i in (1, 2, 3)], f'mask-rcnn_{COCO}', (20, 30, 40), (800, 1280)),
    (PLAIN_MAMBA, [f'plain-mamba-adapter-l{i}' for i in (1, 2, 3)], f'retinanet_{COCO}', (30, 40), (800, 1280)),
    (PLAIN_MAMBA, [f'plain-mamba-l{i}' for i in (1, 2, 3)], f'upernet_{ADE_160K}', (20, 30, 40), (512, 2048)),
    (VIM, ['vim-t', 'vim-s'], f'mask-rcnn_{LSJ}', (20, 30), (1024, 1024)),
    (VIM, ['vim-t', 'vim-s'], f'cascade-mask-rcnn_{LSJ}', (20, 30), (1024, 1024)),
    (VIM, ['vim-t', 'vim-s'], f'upernet_{ADE_60K}', (20, 30), (512, 2048)),
    (VMAMBA, [f'vmamba-{i}' for i in 'tsb'], f'mask-rcnn_{COCO}', (20, 30, 40), (800, 1280)),
    (VMAMBA, [f'vmamba-{i}' for i in 'ts'], 'mask-rcnn_8xb2-ms-3x_coco', (), (800, 1280)),
    (VMAMBA, [f'vmamba-{i}' for i in 'tsb'], f'upernet_{ADE_160K}', (20, 30, 40), (512, 2048)),
    (PLAIN_MAMBA, ['plain-mamba-l1'], LIGHT, (30,), (512, 2048)),
    (VIM, ['vim-t'], LIGHT, (30,), (512, 2048)),
    (VMAMBA, ['vmamba-t'], LIGHT, (30,), (512, 2048)),
]
# With the peers of pruning, at 30 %.
PEERS = [
    (PLAIN_MAMBA, 'plain-mamba-adapter-l1', f'mask-rcnn_{COCO}'),
    (PLAIN_MAMBA, 'plain-mamba-l1', f'upernet_{ADE_160K}'),
    (VIM, 'vim-s', f'mask-rcnn_{LSJ}'),
    (VIM, 'vim-s', f'upernet_{ADE_60K}'),
    (VMAMBA, 'vmamba-t', f'mask-rcnn_{COCO}'),
    (VMAMBA, 'vmamba-t', f'upernet_{ADE_160K}'),
]
# The paper's recipe, and short trainings that start from a checkpoint.
OTHERS = [
    PLAIN_MAMBA / f'plain-mamba-adapter-l1-top70_mask-rcnn_{COCO}.py',
    PLAIN_MAMBA / f'plain-mamba-l1-top70_upernet_{ADE_160K}.py',
    *(
        folder / f'{model}-flops30-{how}_{rest}.py'
        for folder, model, rest in (
            (PLAIN_MAMBA, 'plain-mamba-adapter-l1', 'mask-rcnn_8xb2-4e_coco'),
            (PLAIN_MAMBA, 'plain-mamba-l1', 'upernet_8xb2-40k_ade20k-512x512'),
            (VMAMBA, 'vmamba-t', 'mask-rcnn_8xb2-4e_coco'),
            (VMAMBA, 'vmamba-t', 'upernet_8xb2-40k_ade20k-512x512'),
        )
        for how in ('finetune', 'elastic')
    ),
]


def required() -> dict[Path, dict | None]:
    """Every dense and pruned config of the tables, with what its `pruning` has to ask for."""
    configs: dict[Path, dict | None] = {}
    for folder, models, rest, percents, shape in TABLE:
        for model in models:
            configs[folder / f'{model}_{rest}.py'] = None
            for percent in percents:
                target = dict(flops_reduction=percent / 100, input_shape=shape)
                configs[folder / f'{model}-flops{percent}_{rest}.py'] = target
    shapes = {rest: shape for _, _, rest, _, shape in TABLE}
    for folder, model, rest in PEERS:
        for reduction in ('evit', 'merge'):
            target = dict(flops_reduction=0.3, input_shape=shapes[rest], reduction=reduction)
            target |= dict(conv_fill='zero', scan_fill='zero')  # as published
            configs[folder / f'{model}-{reduction}-flops30_{rest}.py'] = target
    return configs


REQUIRED = required()
PRUNED = [path for path, target in REQUIRED.items() if target] + OTHERS[:2]


def test_the_tables_are_complete():
    assert len(REQUIRED) == 12 + 9 + 12 + 6 + 6 + 6 + 12 + 2 + 12 + 6 + 12
    assert {*REQUIRED, *OTHERS} == set(REAL)


@pytest.mark.parametrize('path', PRUNED, ids=lambda path: path.stem)
def test_pruned_config_changes_only_the_pruning(path: Path):
    dense_path = path.with_name(re.sub(r'(-(evit|merge))?-flops\d+|-top70', '', path.name))
    assert dense_path in REQUIRED
    dense, pruned = load_config(str(dense_path)).to_dict(), load_config(str(path)).to_dict()
    pruning = pruned['model']['backbone'].pop('pruning')
    pruned.pop('paper_pruning', None)  # what the config takes the recipe from
    assert dense == pruned
    if target := REQUIRED.get(path):
        assert dict(pruning, input_shape=tuple(pruning['input_shape'])) == target
    else:
        assert (pruning['keep_ratio'], list(pruning['layers'])) == (0.7, [5, 11, 17])
