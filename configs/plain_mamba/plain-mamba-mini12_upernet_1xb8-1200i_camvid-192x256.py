# A twelve-layer PlainMamba on CamVid: 1200 tokens (patches of 8 on 240x320 pixels).
_base_ = [
    '../_base_/models/upernet_camvid.py',
    '../_base_/datasets/camvid_192x256.py',
    '../_base_/schedules/schedule_camvid.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    backbone=dict(
        type='PlainMamba',
        arch=dict(embed_dims=96, num_layers=12, num_convs=0, mixer_cfg=dict(d_state=8)),
        img_size=(192, 256),
        patch_size=8,
        out_indices=(2, 5, 8, 11),
    )
)
