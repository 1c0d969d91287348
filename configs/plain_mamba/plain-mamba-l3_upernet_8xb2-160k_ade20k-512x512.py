_base_ = './plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'

checkpoint = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l3.pth'
model = dict(
    backbone=dict(
        arch='L3',
        out_indices=(8, 17, 26, 35),
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint=checkpoint),
    ),
    decode_head=dict(in_channels=[448] * 4),
    auxiliary_head=dict(in_channels=448),
)
