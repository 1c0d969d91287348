"""Tiny real data sets and configs for runs of the tools: pictures of coloured boxes, one colour per class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
SIZE = 96
COLOURS = np.array([[40, 40, 40], [220, 60, 60], [60, 220, 60]], dtype=np.uint8)  # background and two classes


def tool_environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join([str(REPO), os.environ.get('PYTHONPATH', '')]).rstrip(os.pathsep)
    return {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', **extra}


def run_tool(tool: str, *args: object, **extra: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / 'tools' / tool), *map(str, args)]
    return subprocess.run(command, env=tool_environment(**extra), capture_output=True, text=True, timeout=600)


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """Label map (SIZE, SIZE) with 0 for background, and (class, [x, y, w, h]) of each box."""
    labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
    boxes = []
    for kind in (1, 2):
        w, h = rng.integers(32, 44, 2).tolist()
        x, y = (kind - 1) * SIZE // 2 + int(rng.integers(0, SIZE // 2 - w)), int(rng.integers(0, SIZE - h))
        labels[y : y + h, x : x + w] = kind
        boxes.append((kind, [x, y, w, h]))
    return labels, boxes


def make_seg_data(root: Path, train: int = 8, val: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (('training', train), ('validation', val)):
        for folder in ('images', 'annotations'):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            labels, _ = draw_scene(rng)
            noise = rng.integers(0, 20, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(COLOURS[labels] + noise).save(root / 'images' / split / f'{i}.png')
            Image.fromarray(labels).save(root / 'annotations' / split / f'{i}.png')
    return root


def make_det_data(root: Path, train: int = 4, val: int = 2) -> Path:
    rng = np.random.default_rng(0)
    (root / 'annotations').mkdir(parents=True)
    for split, count in (('train', train), ('val', val)):
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            labels, boxes = draw_scene(rng)
            Image.fromarray(COLOURS[labels]).save(root / split / f'{i}.png')
            images.append(dict(id=i, file_name=f'{i}.png', height=SIZE, width=SIZE))
            for kind, (x, y, w, h) in boxes:
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotations.append(
                    dict(
                        id=len(annotations),
                        image_id=i,
                        category_id=kind,
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                        segmentation=[polygon],
                    )
                )
        categories = [dict(id=1, name='red'), dict(id=2, name='green')]
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))
    return root


SEG_CONFIG = """
_base_ = ['{repo}/configs/_base_/schedules/schedule_mini_seg.py', '{repo}/configs/_base_/default_runtime_seg.py']
data_root = '{data}'
max_iters = {iters}
metainfo = dict(classes=('ground', 'red', 'green'), palette=[[40, 40, 40], [220, 60, 60], [60, 220, 60]])
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
loader = dict(batch_size=2, num_workers=0)
train_dataloader = dict(
    **loader, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo, pipeline=pipeline,
                 img_suffix='.png', seg_map_suffix='.png',
                 data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo, pipeline=pipeline,
                 img_suffix='.png', seg_map_suffix='.png',
                 data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation')))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[80.0] * 3, std=[60.0] * 3, bgr_to_rgb=True,
                           size=({size}, {size}), pad_val=0, seg_pad_val=255),
    backbone=dict(
        type='PlainMamba',
        arch=dict(embed_dims={width}, num_layers=4, num_convs=1, layers_with_dwconv=[],
                  mixer_cfg=dict(d_state=4, expand=1, conv_size=3)),
        img_size={size}, out_indices=(3,), pruning={pruning}),
    decode_head=dict(
        type='FCNHead', in_channels={width}, in_index=0, channels=16, num_convs=1, concat_input=False,
        dropout_ratio=0.0, num_classes=3, norm_cfg=dict(type='BN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval={interval}, max_keep_ckpts=3), logger=dict(interval=5))
"""

DET_CONFIG = """
_base_ = ['{repo}/configs/_base_/schedules/schedule_mini_det.py', '{repo}/configs/_base_/default_runtime_det.py']
data_root = '{data}/'
metainfo = dict(classes=('red', 'green'), palette=[(220, 60, 60), (60, 220, 60)])
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
                  dict(type='PackDetInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=({size}, {size}), keep_ratio=True),
                 dict(type='LoadAnnotations', with_bbox=True),
                 dict(type='PackDetInputs',
                      meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='CocoDataset', data_root=data_root, metainfo=metainfo, ann_file='annotations/train.json',
                 data_prefix=dict(img='train/'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', data_root=data_root, metainfo=metainfo, ann_file='annotations/val.json',
                 data_prefix=dict(img='val/'), test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'annotations/val.json', metric='bbox')
test_evaluator = val_evaluator
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[80.0] * 3, std=[60.0] * 3, bgr_to_rgb=True,
                           pad_size_divisor=32),
    backbone=dict(type='PlainMamba',
                  arch=dict(embed_dims={width}, num_layers=4, num_convs=1, layers_with_dwconv=[],
                            mixer_cfg=dict(d_state=4, expand=1, conv_size=3)),
                  img_size={size}, out_indices=(3,), pruning={pruning}),
    neck=dict(type='ChannelMapper', in_channels=[{width}], kernel_size=1, out_channels=16, num_outs=2),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=16, stacked_convs=1, feat_channels=16,
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=2, scales_per_octave=1, ratios=[1.0],
                              strides=[16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
                                 ignore_iof_thr=-1),
                   sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5),
                  max_per_img=20))
param_scheduler = []
train_cfg = dict(max_iters={iters}, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval={interval}))
"""

PRUNING = dict(layers=[1], keep_ratio=0.7, importance='clip', alignment='carry', conv_fill='zero', restoration='hold')


def write_config(
    path: Path,
    template: str,
    data: Path,
    *,
    iters: int = 4,
    interval: int = 4,
    width: int = 32,
    pruning: dict | None = None,
) -> Path:
    text = template.format(
        repo=REPO, data=data, iters=iters, interval=interval, width=width, size=SIZE, pruning=repr(pruning)
    )
    path.write_text(text)
    return path


def scalars(work_dir: Path) -> list[dict]:
    """The metrics that a run logged."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
