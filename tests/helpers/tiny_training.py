"""A real Runner around tiny real segmentors and detectors, with their data in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch.utils.data import Dataset

import mmssmprune.models  # noqa: F401 (registers the backbones)
from mmssmprune.engine.runner import CheckedRunner

SIZE = 64
LAYERS = [0, 2]
BACKBONES = {
    'PlainMamba': dict(
        type='PlainMamba',
        arch=dict(embed_dims=16, num_layers=4, num_convs=0, layers_with_dwconv=(), mixer_cfg=dict(d_state=2)),
        img_size=SIZE,
        patch_size=8,
        out_indices=(1, 3),
    ),
    # Without BatchNorm, so that it computes the same in training and evaluation.
    'Vim': dict(
        type='Vim',
        arch=dict(embed_dims=16, num_layers=4, mixer_cfg=dict(d_state=2)),
        img_size=SIZE,
        patch_size=8,
        out_indices=(1, 3),
        if_cls_token=False,
    ),
}


@DATASETS.register_module(force=True)
class InMemoryScenes(Dataset):
    """Noise with a label per quadrant, for segmentation, or a box around one, for detection."""

    def __init__(self, boxes: bool, count: int = 4):
        self.boxes, self.count = boxes, count
        self.metainfo = dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [9, 9, 9], [99, 99, 99]])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.randint(0, 256, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(index))
        meta = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), img_id=index, scale_factor=(1.0, 1.0))
        return dict(inputs=image.byte(), data_samples=self._boxed(meta) if self.boxes else self._labelled(meta))

    def _boxed(self, meta: dict[str, Any]) -> Any:
        from mmdet.structures import DetDataSample
        from mmdet.structures.bbox import HorizontalBoxes

        boxes = HorizontalBoxes(torch.tensor([[4.0, 6.0, 30.0, 34.0]]))
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=boxes.tensor, labels=torch.tensor([1]))
        return sample

    def _labelled(self, meta: dict[str, Any]) -> Any:
        from mmseg.structures import SegDataSample

        labels = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
        labels[:, : SIZE // 2, SIZE // 2 :] = 1
        labels[:, SIZE // 2 :] = 2
        return SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels))


def backbone_cfg(kind: str = 'PlainMamba', **options: Any) -> dict:
    return dict(BACKBONES[kind], **options)


def segmentor_cfg(backbone: dict) -> dict:
    head = dict(
        type='FCNHead',
        in_channels=16,
        in_index=1,
        channels=8,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=3,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    )
    preprocessor = dict(type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3, size=(SIZE, SIZE))
    return dict(
        type='EncoderDecoder',
        data_preprocessor=preprocessor,
        backbone=backbone,
        decode_head=head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def detector_cfg(backbone: dict) -> dict:
    head = dict(
        type='RetinaHead',
        num_classes=3,
        in_channels=8,
        stacked_convs=1,
        feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=2, scales_per_octave=1, ratios=[1.0], strides=[8, 16]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    )
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=32),
        backbone=backbone,
        neck=dict(type='ChannelMapper', in_channels=[16, 16], kernel_size=1, out_channels=8, num_outs=2),
        bbox_head=head,
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(nms_pre=10, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5)),
    )


def build(model_cfg: dict) -> torch.nn.Module:
    init_default_scope('mmdet' if model_cfg['type'] == 'RetinaNet' else 'mmseg')
    torch.manual_seed(0)
    return MODELS.build(model_cfg)


def batch_of(model: torch.nn.Module, count: int = 2) -> dict:
    """A training batch, preprocessed."""
    scenes = InMemoryScenes(boxes=hasattr(model, 'bbox_head'))
    return model.data_preprocessor(pseudo_collate([scenes[i] for i in range(count)]), training=True)


def make_runner(
    work_dir: Path, custom_hooks: list[dict], backbone: dict, *, iters: int = 6, detector: bool = False, **options: Any
) -> CheckedRunner:
    """Validation and a checkpoint after every third iteration; detectors are not validated."""
    loader = dict(batch_size=2, num_workers=0, dataset=dict(type='InMemoryScenes', boxes=detector))
    validation = dict(
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        val_cfg=dict(type='ValLoop'),
    )
    cfg = dict(
        default_scope='mmdet' if detector else 'mmseg',
        model=detector_cfg(backbone) if detector else segmentor_cfg(backbone),
        work_dir=str(work_dir),
        train_dataloader=dict(loader, sampler=dict(type='InfiniteSampler', shuffle=True)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=3),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=custom_hooks,
        log_processor=dict(by_epoch=False, window_size=1),
        randomness=dict(seed=3),
        experiment_name=str(work_dir),
    )
    return CheckedRunner.from_cfg(Config({**cfg, **({} if detector else validation), **options}))
