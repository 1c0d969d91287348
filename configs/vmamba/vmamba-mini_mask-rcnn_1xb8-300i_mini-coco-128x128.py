# A seven-block VMamba in four stages on 1024, 256, 64 and 16 tokens (patches of 4 on 128x128 pixels). The
# heads read strides 8, 16 and 32.
_base_ = [
    '../_base_/models/mask_rcnn_mini.py',
    '../_base_/datasets/mini_coco.py',
    '../_base_/schedules/schedule_mini_det.py',
    '../_base_/default_runtime_det.py',
]
model = dict(
    backbone=dict(type='VMamba', arch=dict(embed_dims=24, depths=(1, 1, 4, 1), ssm_ratio=1.0), out_indices=(1, 2, 3)),
    neck=dict(in_channels=[48, 96, 192]),
)
