# Mask R-CNN on Vim with ViTDet's simple feature pyramid (arXiv 2203.16527), sized for the tiny model: LayerNorm in
# pyramid and heads, two convolutions in the RPN. Every image is padded to 1024x1024, in testing too.
_base_ = './mask_rcnn.py'

embed_dims = 192
norm_cfg = dict(type='LN2d', eps=1e-6)

model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),
    backbone=dict(
        type='Vim',
        arch='tiny',
        img_size=1024,
        out_indices=(23,),
        final_norm=True,
        if_cls_token=False,
        drop_path_rate=0.1,
    ),
    neck=dict(type='SimpleFeaturePyramid', in_channels=embed_dims, out_channels=256, norm_cfg=norm_cfg),
    rpn_head=dict(num_convs=2),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)),
    train_cfg=dict(rcnn=dict(assigner=dict(match_low_quality=False))),
)
