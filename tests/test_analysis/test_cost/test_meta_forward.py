"""Whole models counted without data against the count of a real forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mmssmprune.analysis.cost.conventions import CONVENTIONS
from mmssmprune.analysis.cost.flops import count_flops, price
from mmssmprune.analysis.cost.meta_forward import record_model
from mmssmprune.analysis.full_proposals import full_proposals
from mmssmprune.analysis.inputs import noise_image, prepare_inputs
from mmssmprune.engine.runner_setup import load_config

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
MINI = {
    'two stages': 'plain_mamba/plain-mamba-mini-top70_mask-rcnn_1xb8-300i_mini-coco-128x128.py',
    'segmentation': 'vim/vim-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
}


def build(config: str) -> torch.nn.Module:
    cfg = load_config(str(CONFIGS / config))
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model).eval()


@pytest.mark.parametrize('config', MINI.values(), ids=MINI.keys())
def test_counts_what_a_real_forward_pass_counts(config: str):
    shape = (96, 160)
    model = build(config)
    operations, padded = record_model(model, shape)
    counted = price(operations, CONVENTIONS['field'])
    # The model itself is untouched, so it can run for real now.
    real_model = revert_sync_batchnorm(model)
    inputs = prepare_inputs(real_model, noise_image(shape), shape)
    with full_proposals(real_model):
        real = count_flops(real_model, lambda: real_model(**inputs, mode='tensor'))
    assert (counted.backbone, counted.neck, counted.heads) == (real.backbone, real.neck, real.heads)
    assert padded == tuple(inputs['inputs'].shape[-2:])
    assert set(counted.unsupported) == set(real.unsupported)


def test_one_stage_at_full_size():
    model = build('plain_mamba/plain-mamba-adapter-l1_retinanet_8xb2-1x_coco.py')
    operations, padded = record_model(model, (800, 1280))
    counted = price(operations, CONVENTIONS['field'])
    assert padded == (800, 1280)
    assert min(counted.backbone, counted.neck, counted.heads) > 0
    assert list(counted.unsupported) == ['aten.grid_sampler_2d.default']
    assert all(not parameter.is_meta for parameter in model.parameters())


def test_cut_out_regions_are_listed():
    operations, _ = record_model(build(MINI['two stages']), (64, 64))
    assert [op.name for op in operations].count('mmcv.roi_align_forward') == 2
