# A twelve-block Vim on blood cells: 1200 tokens (patches of 8 on 240x320 pixels), no class token; the output is the
# normalised sum of the residual stream and the last block.
_base_ = [
    '../_base_/models/faster_rcnn_bccd.py',
    '../_base_/datasets/bccd_240x320.py',
    '../_base_/schedules/schedule_photos_det.py',
    '../_base_/default_runtime_det.py',
]
model = dict(
    backbone=dict(
        type='Vim',
        arch=dict(embed_dims=96, num_layers=12, mixer_cfg=dict(d_state=8)),
        img_size=(240, 320),
        patch_size=8,
        if_cls_token=False,
        out_indices=(11,),
    )
)
