# Mask R-CNN on VMamba, sized for the tiny model: as mmdet's for Swin, so without norms in neck and heads, and with two
# linear layers in the box head.
_base_ = './mask_rcnn.py'

embed_dims = 96

model = dict(
    backbone=dict(type='VMamba', arch='tiny', out_indices=(0, 1, 2, 3), drop_path_rate=0.2),
    neck=dict(type='FPN', in_channels=[embed_dims * 2**i for i in range(4)], out_channels=256, num_outs=5),
    roi_head=dict(bbox_head=dict(type='Shared2FCBBoxHead', norm_cfg=None)),
)
