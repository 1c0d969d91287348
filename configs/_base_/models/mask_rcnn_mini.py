# Mask R-CNN with slim heads for the small data sets. One map at stride 8 becomes strides 8, 16 and 32.
_base_ = './mask_rcnn.py'

embed_dims = 64
strides = [8, 16, 32]
rois = dict(roi_layer=dict(sampling_ratio=2), out_channels=64, finest_scale=28, featmap_strides=strides)
proposals = dict(nms_pre=200, max_per_img=60)

model = dict(
    neck=dict(
        type='ChannelMapper',
        in_channels=[embed_dims],
        kernel_size=3,
        out_channels=64,
        num_outs=3,
        norm_cfg=_base_.norm_cfg,
    ),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[2.5], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=rois,
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            norm_cfg=None,
            in_channels=64,
            fc_out_channels=128,
            num_classes=4,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=rois,
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=32, num_classes=4),
    ),
    train_cfg=dict(
        rpn=dict(assigner=dict(pos_iou_thr=0.6), sampler=dict(num=64)),
        rpn_proposal=proposals,
        rcnn=dict(assigner=dict(match_low_quality=False), sampler=dict(num=32, pos_fraction=0.33)),
    ),
    test_cfg=dict(rpn=proposals, rcnn=dict(max_per_img=20)),
)
