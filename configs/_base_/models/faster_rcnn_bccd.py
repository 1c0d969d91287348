# Faster R-CNN with slim heads for blood cells: one map of 96 channels at stride 8 becomes strides 8, 16 and 32.
_base_ = './mask_rcnn_mini.py'

model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    neck=dict(in_channels=[96]),
    rpn_head=dict(anchor_generator=dict(scales=[2.0, 4.0])),
    roi_head=dict(bbox_head=dict(num_classes=3), mask_roi_extractor=None, mask_head=None),
    test_cfg=dict(rcnn=dict(max_per_img=100)),
)
