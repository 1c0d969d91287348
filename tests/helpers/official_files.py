"""Checkpoints as the authors' code writes them, with random weights under their key names and shapes.

The backbones come from tests/data/official_keys.json; the heads are those that mmdet, mmseg and detectron2 put around
them, written out below.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

KEYS = json.loads((Path(__file__).parents[1] / 'data' / 'official_keys.json').read_text())
Shapes = dict[str, list[int]]


def names_of_files() -> list[str]:
    """One file for every published family, size and task, and Vim's detection model."""
    return [*KEYS, 'vim_det_tiny']


def conv(name: str, dims_in: int, dims_out: int, size: int, *, bias: bool = True) -> Shapes:
    shapes = {f'{name}.weight': [dims_out, dims_in, size, size]}
    return shapes | ({f'{name}.bias': [dims_out]} if bias else {})


def conv_bn(name: str, dims_in: int, dims_out: int, size: int) -> Shapes:
    norm = {f'{name}.bn.{part}': [dims_out] for part in ('weight', 'bias', 'running_mean', 'running_var')}
    return conv(f'{name}.conv', dims_in, dims_out, size, bias=False) | norm | {f'{name}.bn.num_batches_tracked': []}


def linear(name: str, dims_in: int, dims_out: int) -> Shapes:
    return {f'{name}.weight': [dims_out, dims_in], f'{name}.bias': [dims_out]}


def fpn(dims: int, first: int, extra: int) -> Shapes:
    shapes: Shapes = {}
    for i in range(4 - first):
        shapes |= conv_bn(f'neck.lateral_convs.{i}', dims, 256, 1) | conv_bn(f'neck.fpn_convs.{i}', 256, 256, 3)
    for i in range(4 - first, 4 - first + extra):
        shapes |= conv_bn(f'neck.fpn_convs.{i}', 256, 256, 3)
    return shapes


def mask_rcnn(dims: int) -> Shapes:
    """mmdet 2.x: FPN, RPN, four convolutions and one linear layer for boxes, four convolutions for masks."""
    shapes = fpn(dims, first=0, extra=0) | conv('rpn_head.rpn_conv', 256, 256, 3)
    shapes |= conv('rpn_head.rpn_cls', 256, 3, 1) | conv('rpn_head.rpn_reg', 256, 12, 1)
    for i in range(4):
        shapes |= conv_bn(f'roi_head.bbox_head.shared_convs.{i}', 256, 256, 3)
        shapes |= conv(f'roi_head.mask_head.convs.{i}.conv', 256, 256, 3)
    shapes |= linear('roi_head.bbox_head.shared_fcs.0', 256 * 49, 1024)
    shapes |= linear('roi_head.bbox_head.fc_cls', 1024, 81) | linear('roi_head.bbox_head.fc_reg', 1024, 320)
    shapes |= conv('roi_head.mask_head.upsample', 256, 256, 2)
    return shapes | conv('roi_head.mask_head.conv_logits', 256, 80, 1)


def retinanet(dims: int) -> Shapes:
    """mmdet 2.x: FPN from stride 8 on, two more levels, two towers."""
    shapes = fpn(dims, first=1, extra=2)
    for i in range(4):
        for tower in ('cls', 'reg'):
            shapes |= conv(f'bbox_head.{tower}_convs.{i}.conv', 256, 256, 3)
    return shapes | conv('bbox_head.retina_cls', 256, 720, 3) | conv('bbox_head.retina_reg', 256, 36, 3)


def upernet(dims: int, channels: int) -> Shapes:
    """mmseg 0.x: UPerHead and an auxiliary FCNHead."""
    shapes = conv('decode_head.conv_seg', channels, 150, 1) | conv('auxiliary_head.conv_seg', 256, 150, 1)
    shapes |= conv_bn('auxiliary_head.convs.0', dims, 256, 3)
    for i in range(4):
        shapes |= conv_bn(f'decode_head.psp_modules.{i}.1', dims, channels, 1)
    shapes |= conv_bn('decode_head.bottleneck', dims + 4 * channels, channels, 3)
    for i in range(3):
        shapes |= conv_bn(f'decode_head.lateral_convs.{i}', dims, channels, 1)
        shapes |= conv_bn(f'decode_head.fpn_convs.{i}', channels, channels, 3)
    return shapes | conv_bn('decode_head.fpn_bottleneck', 4 * channels, channels, 3)


def mask_rcnn_of_stages(dims: list[int]) -> Shapes:
    """mmdet 3.x, its own Mask R-CNN: FPN without norms, two linear layers for boxes."""
    shapes = conv('rpn_head.rpn_conv', 256, 256, 3)
    shapes |= conv('rpn_head.rpn_cls', 256, 3, 1) | conv('rpn_head.rpn_reg', 256, 12, 1)
    for i, width in enumerate(dims):
        shapes |= conv(f'neck.lateral_convs.{i}.conv', width, 256, 1) | conv(f'neck.fpn_convs.{i}.conv', 256, 256, 3)
        shapes |= conv(f'roi_head.mask_head.convs.{i}.conv', 256, 256, 3)
    shapes |= linear('roi_head.bbox_head.shared_fcs.0', 256 * 49, 1024)
    shapes |= linear('roi_head.bbox_head.shared_fcs.1', 1024, 1024)
    shapes |= linear('roi_head.bbox_head.fc_cls', 1024, 81) | linear('roi_head.bbox_head.fc_reg', 1024, 320)
    shapes |= conv('roi_head.mask_head.upsample', 256, 256, 2)
    return shapes | conv('roi_head.mask_head.conv_logits', 256, 80, 1)


def upernet_of_stages(dims: list[int]) -> Shapes:
    """mmseg 1.x: the same heads over maps of growing width."""
    shapes = upernet(dims[-1], channels=512) | conv_bn('auxiliary_head.convs.0', dims[2], 256, 3)
    for i, width in enumerate(dims[:3]):
        shapes |= conv_bn(f'decode_head.lateral_convs.{i}', width, 512, 1)
    return shapes


def vim_detector(dims: int) -> Shapes:
    """detectron2: Vim at 1024x1024 without class token and final norm, ViTDet's pyramid, the start of its heads."""
    net = {k: s for k, s in KEYS['vim_tiny'].items() if not k.startswith(('head.', 'cls_token', 'norm_f'))}
    shapes = {f'backbone.net.{key}': shape for key, shape in net.items()} | {'backbone.net.pos_embed': [1, 4096, dims]}
    shapes |= {f'backbone.net.rope.freqs_{part}': [4096, dims] for part in ('cos', 'sin')}
    up = {2: (dims, dims // 2), 3: (dims, dims // 2)}
    for stage, (dims_in, dims_out) in up.items():
        shapes |= {f'backbone.simfp_{stage}.0.weight': [dims_in, dims_out, 2, 2]}
        shapes |= {f'backbone.simfp_{stage}.0.bias': [dims_out]}
    shapes |= {f'backbone.simfp_2.1.{part}': [dims // 2] for part in ('weight', 'bias')}
    shapes |= {'backbone.simfp_2.3.weight': [dims // 2, dims // 4, 2, 2], 'backbone.simfp_2.3.bias': [dims // 4]}
    for stage, first, width in ((2, 4, dims // 4), (3, 1, dims // 2), (4, 0, dims), (5, 1, dims)):
        for i, (dims_in, size) in enumerate(((width, 1), (256, 3)), start=first):
            shapes |= conv(f'backbone.simfp_{stage}.{i}', dims_in, 256, size, bias=False)
            shapes |= {f'backbone.simfp_{stage}.{i}.norm.{part}': [256] for part in ('weight', 'bias')}
    shapes |= conv('proposal_generator.rpn_head.anchor_deltas', 256, 12, 1)
    return shapes | linear('roi_heads.box_predictor.0.cls_score', 1024, 81)


def shapes_of(name: str, heads: str = 'mask_rcnn') -> Shapes:
    """Keys and shapes of a whole official model."""
    if name == 'vim_det_tiny':
        return vim_detector(192)
    backbone = KEYS[name]
    if name.startswith(('vmamba_det', 'vmamba_seg')):
        dims = [backbone[f'outnorm{i}.weight'][0] for i in range(4)]
        shapes = {f'backbone.{key}': shape for key, shape in backbone.items()}
        return shapes | (mask_rcnn_of_stages if 'det' in name else upernet_of_stages)(dims)
    if not name.startswith(('plain_mamba_adapter', 'plain_mamba_seg', 'vim_seg')):
        return dict(backbone)
    dims = backbone['pos_embed'][-1]
    shapes = {f'backbone.{key}': shape for key, shape in backbone.items()}
    if 'adapter' in name:
        return shapes | {'mask_rcnn': mask_rcnn, 'retinanet': retinanet}[heads](dims)
    return shapes | upernet(dims, channels=192 if name.startswith('vim') else 512)


def draw(shapes: Shapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = {k for k in shapes if k.endswith('num_batches_tracked')}
    return {
        k: torch.tensor(7) if k in whole else torch.empty(shape).uniform_(-1, 1, generator=generator)
        for k, shape in shapes.items()
    }


class YacsConfig(dict):
    """Pickled as what yacs 0.1 calls CfgNode: a dict that keeps more about itself, a set among it."""

    def __init__(self, items: dict):
        super().__init__({key: YacsConfig(value) if isinstance(value, dict) else value for key, value in items.items()})
        self.__dict__.update(
            __immutable__=True, __deprecated_keys__={'OLD'}, __renamed_keys__={}, __new_allowed__=False
        )


YacsConfig.__module__, YacsConfig.__name__, YacsConfig.__qualname__ = 'yacs.config', 'CfgNode', 'CfgNode'


@contextmanager
def yacs_there() -> Iterator[None]:
    """What pickling a config needs; reading it has to do without."""
    before = {name: sys.modules.pop(name, None) for name in ('yacs', 'yacs.config')}
    sys.modules.update({name: types.ModuleType(name) for name in before})
    sys.modules['yacs.config'].CfgNode = YacsConfig
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def save_official(content: dict, path: Path, **kwargs) -> None:
    """``torch.save`` where the authors' packages are."""
    with yacs_there():
        torch.save(content, path, **kwargs)


def january_names(name: str) -> str:
    """What the code of January 2024 called a weight of VMamba."""
    for new, old in (
        (r'patch_embed\.0\.', 'patch_embed.proj.'),
        (r'patch_embed\.2\.', 'patch_embed.norm.'),
        (r'(blocks\.\d+)\.norm\.', r'\1.ln_1.'),
        (r'(blocks\.\d+)\.op\.', r'\1.self_attention.'),
        (r'^classifier\.', ''),
    ):
        name = re.sub(new, old, name)
    return name


def one_file_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of VMamba as the version in one file stores them, linear layers as convolutions of size 1."""
    stored = {}
    for name, value in weights.items():
        if name.endswith(('x_proj_weight', 'dt_projs_weight')):
            name, value = name.replace('_weight', '.weight'), value.flatten(0, 1)
        elif re.search(r'(in_proj|out_proj|fc1|fc2|classifier\.head)\.weight$', name):
            value = value[:, :, None, None]
        stored[name.replace('downsample.norm.', 'downsample.1.').replace('downsample.reduction.', 'downsample.2.')] = (
            value
        )
    return stored


def official_file(name: str, heads: str = 'mask_rcnn') -> dict:
    """What ``torch.load`` gives for the authors' file, with what it holds beside the weights."""
    weights = draw(shapes_of(name, heads))
    if name in ('vim_tiny', 'vim_small', 'vim_base'):
        if name == 'vim_tiny':
            weights |= {f'rope.freqs_{part}': torch.zeros(196, 192) for part in ('cos', 'sin')}
        args = argparse.Namespace(lr=1e-3, model=name, output_dir='out', distributed=True)
        return dict(model=weights, epoch=299, lr_scheduler={'base': np.float64(1e-3)}, scaler='none', args=args)
    if name.startswith('vmamba') and 'classifier.head.weight' in weights:
        config = YacsConfig(dict(MODEL=dict(NAME=name, VSSM=dict(DEPTHS=[2, 2, 8, 2])), TRAIN=dict(LR=1e-3)))
        state = dict(optimizer={'state': {}, 'param_groups': []}, lr_scheduler={'base': [1e-3]}, scaler={'scale': 2.0})
        return dict(model=weights, **state, max_accuracy=82.5, epoch=264, config=config)
    if name.startswith('vmamba'):
        meta = dict(epoch=12, experiment_name=name, mmengine_version='0.10.1', dataset_meta={'CLASSES': ('person',)})
        return dict(meta=meta, state_dict=weights, message_hub={'log_scalars': {}}, param_schedulers=[])
    if name == 'vim_det_tiny':
        return dict(model=weights, iteration=184374, scheduler={'last_epoch': 3})
    if name in ('plain_mamba_l2', 'plain_mamba_l3'):
        weights |= {f'ema_{key.replace(".", "_")}': weights[key] + 1 for key in list(weights) if 'head' in key}
    meta = dict(epoch=300, mmcv_version='1.4.0', CLASSES=('tench', 'goldfish'), hook_msgs={})
    return dict(meta=meta, state_dict=weights, optimizer={'state': {}, 'param_groups': []})
