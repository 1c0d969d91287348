# A seven-block VMamba in four stages on 1024, 256, 64 and 16 tokens (patches of 4 on 128x128 pixels).
_base_ = [
    '../_base_/models/upernet_mini.py',
    '../_base_/datasets/mini_ade.py',
    '../_base_/schedules/schedule_mini_seg.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    backbone=dict(type='VMamba', arch=dict(embed_dims=24, depths=(1, 1, 4, 1), ssm_ratio=1.0)),
    decode_head=dict(in_channels=[24, 48, 96, 192]),
)
