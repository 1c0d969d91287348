_base_ = [
    '../_base_/models/semantic_fpn.py',
    '../_base_/datasets/ade20k_512x512_any_size.py',
    '../_base_/schedules/schedule_80k.py',
    '../_base_/default_runtime_seg.py',
]

# ImageNet weights of the official release; for a local file or random weights see the UperNet config.
checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth'
model = dict(
    backbone=dict(
        type='VMamba',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
