"""What the three benchmarks measure, unless told otherwise; ``--quick`` takes the second list of a pair."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import mmssmprune

# FAMILY:HxW:BATCH of scans and convolutions.
_SCAN_CPU = ('plain-mamba-l1:224x224:2', 'plain-mamba-l1:512x512:1', 'plain-mamba-l1:800x1344:1')
_SCAN_GPU = ('plain-mamba-l1:800x1344:2', 'plain-mamba-l1:224x224:64', 'plain-mamba-l1:512x512:16')
SCANS = {
    'cpu': (
        (*_SCAN_CPU, 'vim-t:224x224:2', 'vim-s:512x512:1', 'vmamba-t:224x224:2', 'vmamba-t:512x512:1'),
        _SCAN_CPU[:2],
    ),
    'cuda': (
        (
            *_SCAN_GPU, 'plain-mamba-l1:512x2048:2', 'vim-t:224x224:64', 'vim-t:800x1344:2', 'vim-s:224x224:64',
            'vim-s:512x512:16', 'vmamba-t:224x224:64', 'vmamba-t:800x1344:2', 'vmamba-t:512x2048:2',
        ),
        _SCAN_GPU[:2],
    ),
}  # fmt: skip

# Names of backbones: the class in mmssmprune.models, and its arch.
BACKBONES = {
    'plain-mamba-l1': ('PlainMamba', 'L1'),
    'plain-mamba-l2': ('PlainMamba', 'L2'),
    'plain-mamba-l3': ('PlainMamba', 'L3'),
    'vim-t': ('Vim', 'tiny'),
    'vim-s': ('Vim', 'small'),
    'vmamba-t': ('VMamba', 'tiny'),
    'vmamba-s': ('VMamba', 'small'),
    'vmamba-b': ('VMamba', 'base'),
}
# ((H, W), batch) of backbones, and how many of the tokens they keep.
_FIRST = (((800, 1333), 2), ((224, 224), 64))
_SIZES = ((224, 224), (512, 512), (512, 2048), (800, 1333))
BACKBONE_INPUTS = {
    'cpu': (
        (((224, 224), 1), ((224, 224), 2), ((224, 224), 16), ((512, 512), 1), ((512, 512), 2), ((800, 1333), 1)),
        (((224, 224), 1),),
    ),
    'cuda': (
        (*_FIRST, *(case for case in product(_SIZES, (1, 2, 16)) if case not in _FIRST)),
        (*_FIRST, ((512, 512), 16), ((224, 224), 16)),
    ),
}
KEEP_RATIOS = {'cpu': (0.9, 0.7, 0.5, 0.3), 'cuda': (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)}

# Configs of whole models, the dense one first.
_CONFIGS = Path(mmssmprune.__file__).resolve().parents[1] / 'configs'
_ADE20K, _COCO = 'upernet_8xb2-160k_ade20k-512x512', 'mask-rcnn_8xb2-1x_coco'
_MINI = 'upernet_1xb8-450i_mini-ade-128x128'
_PAIRS = tuple(
    (f'{folder}/{model}_{recipe}', f'{folder}/{model}-flops30_{recipe}')
    for folder, model, recipe in (
        ('plain_mamba', 'plain-mamba-l1', _ADE20K),
        ('plain_mamba', 'plain-mamba-adapter-l1', _COCO),
        ('vmamba', 'vmamba-t', _ADE20K),
        ('vmamba', 'vmamba-t', _COCO),
    )
)
_QUICK_PAIRS = ((f'plain_mamba/plain-mamba-mini_{_MINI}', f'plain_mamba/plain-mamba-mini-top70_{_MINI}'),)
WHOLE_MODELS = tuple(
    [[str(_CONFIGS / f'{name}.py') for name in pair] for pair in pairs] for pairs in (_PAIRS, _QUICK_PAIRS)
)
