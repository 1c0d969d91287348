# Mask R-CNN with slim heads for many small nuclei: one map of 96 channels at stride 8 becomes strides 8, 16 and 32.
_base_ = './mask_rcnn_mini.py'

proposals = dict(nms_pre=1000, max_per_img=300)

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    neck=dict(in_channels=[96]),
    rpn_head=dict(anchor_generator=dict(scales=[1.5, 3.0])),
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    train_cfg=dict(rpn=dict(sampler=dict(num=128)), rpn_proposal=proposals, rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=proposals, rcnn=dict(max_per_img=300)),
)
