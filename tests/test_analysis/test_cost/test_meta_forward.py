"""Whole models counted without data against the count of a real forward pass."""

from __future__ import annotations

from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmengine.config import Config, ConfigDict
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


TINY = dict(
    type='PlainMamba',
    arch=dict(
        embed_dims=16,
        num_layers=4,
        num_convs=1,
        layers_with_dwconv=[],
        mixer_cfg=dict(d_state=4, expand=1, conv_size=3),
    ),
    img_size=64,
    out_indices=(0, 1, 2),
)


def library_model(package: object, config: str) -> ConfigDict:
    """The model of one of mmdet's or mmseg's own configs, to be given a backbone of ours."""
    cfg = Config.fromfile(Path(package.__file__).parent / '.mim/configs' / config)
    init_default_scope(package.__name__)
    cfg.model.pop('init_cfg', None)
    cfg.model.backbone = ConfigDict(TINY)
    return cfg.model


def dino() -> ConfigDict:
    model = library_model(mmdet, 'dino/dino-4scale_r50_8xb2-12e_coco.py')
    model.num_queries, model.neck.in_channels = 20, [16] * 3
    model.encoder.num_layers = model.decoder.num_layers = 1
    return model


def deformable_detr() -> ConfigDict:
    model = library_model(mmdet, 'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py')
    model.num_queries, model.neck.in_channels = 20, [16] * 3
    model.encoder.num_layers = model.decoder.num_layers = 1
    return model


def mask2former() -> ConfigDict:
    model = library_model(mmdet, 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py')
    return shrink(model, model.panoptic_head)


def segmenting_mask2former() -> ConfigDict:
    model = library_model(mmseg, 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py')
    return shrink(model, model.decode_head)


def shrink(model: ConfigDict, head: ConfigDict) -> ConfigDict:
    model.backbone.out_indices, head.in_channels = (0, 1, 2, 3), [16] * 4
    head.num_queries, head.transformer_decoder.num_layers, head.pixel_decoder.encoder.num_layers = 10, 1, 1
    return model


def sparse_rcnn() -> ConfigDict:
    model = library_model(mmdet, 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py')
    model.neck.in_channels, model.rpn_head.num_proposals = [16] * 3, 7
    return model


@pytest.mark.parametrize('make', [dino, deformable_detr, mask2former, segmenting_mask2former])
def test_heads_that_decide_by_numbers_cost_what_a_real_forward_pass_costs(make):
    shape = (96, 128)
    model = MODELS.build(make()).eval()
    operations, _ = record_model(model, shape)
    counted = price(operations, CONVENTIONS['field'])
    inputs = prepare_inputs(model, noise_image(shape), shape)

    def forward():
        if hasattr(model, 'decode_head'):  # mmseg leaves out the samples that Mask2Former's head asks for
            return model.decode_head(model.extract_feat(inputs['inputs']), inputs['data_samples'])
        return model(**inputs, mode='tensor')

    real = count_flops(model, forward)
    assert counted.total == real.total and counted.backbone == count_flops(model.backbone, inputs['inputs']).total
    assert counted.heads > counted.backbone and counted.left_out == ''
    assert all(not parameter.is_meta for parameter in model.parameters())


def test_sparse_rcnn_brings_its_own_proposals():
    counted = price(record_model(MODELS.build(sparse_rcnn()).eval(), (64, 64))[0], CONVENTIONS['field'])
    # the first of six stages, by hand: q, k, v and out of the attention over 7 proposals of 256 numbers
    assert counted.per_module['roi_head.bbox_head.0.attention'] == 7 * 256 * 256 * 4 + 2 * 7 * 7 * 256
    assert counted.left_out == ''


def test_masks_of_queryinst_which_need_detections_are_named():
    model = library_model(mmdet, 'queryinst/queryinst_r50_fpn_1x_coco.py')
    model.neck.in_channels, model.rpn_head.num_proposals = [16] * 3, 5
    heads = model.roi_head
    heads.num_stages, heads.stage_loss_weights = 1, [1]
    heads.bbox_head, heads.mask_head = heads.bbox_head[:1], heads.mask_head[:1]
    model.train_cfg.rcnn = model.train_cfg.rcnn[:1]
    counted = price(record_model(MODELS.build(model).eval(), (64, 64))[0], CONVENTIONS['field'])
    assert counted.left_out == 'roi_head.mask_head (ModuleList): no part of it ran' and counted.heads > 0


def test_a_head_that_does_not_run_is_named_and_the_backbone_counted():
    model = build('vim/vim-mini_upernet_1xb8-450i_mini-ade-128x128.py')
    whole = price(record_model(model, (64, 64))[0], CONVENTIONS['field'])
    model.decode_head.forward = model.decode_head.predict = failing
    counted = price(record_model(model, (64, 64))[0], CONVENTIONS['field'])
    assert counted.parts == {
        'backbone': whole.backbone, 'neck': whole.neck, 'heads': 0, 'total': whole.backbone + whole.neck
    }  # fmt: skip
    assert counted.left_out == 'decode_head (UPerHead): RuntimeError: only for photographs'
    assert counted.unsupported == {}


def failing(*args, **kwargs):
    raise RuntimeError('only for photographs')


@pytest.mark.parametrize('channels', [1, 4])
def test_images_of_other_than_three_channels(channels: int):
    cfg = load_config(str(CONFIGS / 'vim/vim-mini_upernet_1xb8-450i_mini-ade-128x128.py'))
    cfg.model.backbone.in_channels = channels
    cfg.model.data_preprocessor.update(mean=[100.0], std=[50.0], bgr_to_rgb=False)
    init_default_scope(cfg.default_scope)
    model, usual = MODELS.build(cfg.model).eval(), build('vim/vim-mini_upernet_1xb8-450i_mini-ade-128x128.py')
    counts = [price(record_model(m, (64, 64))[0], CONVENTIONS['field']).parts for m in (model, usual)]
    # only the patch embedding sees the image: 8 x 8 pixels per patch and channel
    embed = model.backbone.patch_embed
    cells, side = (64 // embed.stride) ** 2, embed.patch_size
    assert counts[0]['backbone'] - counts[1]['backbone'] == (channels - 3) * cells * side**2 * model.backbone.embed_dims
    assert counts[0]['heads'] == counts[1]['heads']


def test_a_preprocessor_for_other_channels_is_told_in_a_sentence():
    cfg = load_config(str(CONFIGS / 'vim/vim-mini_upernet_1xb8-450i_mini-ade-128x128.py'))
    cfg.model.backbone.in_channels = 4
    init_default_scope(cfg.default_scope)
    with pytest.raises(ValueError, match='does not suit images of 4 channels, which the backbone takes'):
        record_model(MODELS.build(cfg.model).eval(), (64, 64))
