_base_ = './plain-mamba-adapter-l1_retinanet_8xb2-1x_coco.py'

checkpoint = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l3.pth'
model = dict(
    backbone=dict(
        arch='L3',
        drop_path_rate=0.3,
        interaction_indexes=[[0, 8], [9, 17], [18, 26], [27, 35]],
        deform_num_heads=8,
        init_cfg=dict(checkpoint=checkpoint),
    ),
    neck=dict(in_channels=[448] * 4),
)
