# An eight-layer PlainMamba on 256 tokens (patches of 8 on 128x128 pixels).
_base_ = [
    '../_base_/models/upernet_mini.py',
    '../_base_/datasets/mini_ade.py',
    '../_base_/schedules/schedule_mini_seg.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    backbone=dict(
        type='PlainMamba',
        arch=dict(embed_dims=64, num_layers=8, num_convs=0, mixer_cfg=dict(d_state=4)),
        img_size=128,
        patch_size=8,
        out_indices=(1, 3, 5, 7),
    )
)
