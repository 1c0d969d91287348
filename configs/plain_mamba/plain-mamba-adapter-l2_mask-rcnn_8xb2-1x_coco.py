_base_ = './plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'

checkpoint = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l2.pth'
model = dict(
    backbone=dict(
        arch='L2',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint=checkpoint),
    ),
    neck=dict(in_channels=[384] * 4),
)
