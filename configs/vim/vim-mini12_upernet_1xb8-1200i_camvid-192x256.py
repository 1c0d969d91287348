# A twelve-block Vim on CamVid: 1200 tokens (patches of 8 on 240x320 pixels), no class token, four taps at one stride.
_base_ = [
    '../_base_/models/upernet_camvid.py',
    '../_base_/datasets/camvid_192x256.py',
    '../_base_/schedules/schedule_camvid.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    backbone=dict(
        type='Vim',
        arch=dict(embed_dims=96, num_layers=12, mixer_cfg=dict(d_state=8)),
        img_size=(192, 256),
        patch_size=8,
        if_cls_token=False,
        out_indices=(2, 5, 8, 11),
        final_norm=False,
    )
)
