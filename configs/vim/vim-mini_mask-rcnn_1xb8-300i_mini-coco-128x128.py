# An eight-block Vim on 256 tokens (patches of 8 on 128x128 pixels), no class token; the output is the normalised sum of
# the residual stream and the last block.
_base_ = [
    '../_base_/models/mask_rcnn_mini.py',
    '../_base_/datasets/mini_coco.py',
    '../_base_/schedules/schedule_mini_det.py',
    '../_base_/default_runtime_det.py',
]
model = dict(
    backbone=dict(
        type='Vim',
        arch=dict(embed_dims=64, num_layers=8, mixer_cfg=dict(d_state=4)),
        img_size=128,
        patch_size=8,
        if_cls_token=False,
        out_indices=(7,),
    )
)
