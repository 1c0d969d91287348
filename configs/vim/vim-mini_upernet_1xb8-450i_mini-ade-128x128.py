# An eight-block Vim on 256 tokens (patches of 8 on 128x128 pixels), no class token, four taps at one stride.
_base_ = [
    '../_base_/models/upernet_mini.py',
    '../_base_/datasets/mini_ade.py',
    '../_base_/schedules/schedule_mini_seg.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    backbone=dict(
        type='Vim',
        arch=dict(embed_dims=64, num_layers=8, mixer_cfg=dict(d_state=4)),
        img_size=128,
        patch_size=8,
        if_cls_token=False,
        out_indices=(1, 3, 5, 7),
        final_norm=False,
    )
)
