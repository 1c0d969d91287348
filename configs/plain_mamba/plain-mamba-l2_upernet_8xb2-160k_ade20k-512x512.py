_base_ = './plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'

checkpoint = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l2.pth'
model = dict(
    backbone=dict(
        arch='L2',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint=checkpoint),
    ),
    decode_head=dict(in_channels=[384] * 4),
    auxiliary_head=dict(in_channels=384),
)
