# UperNet on VMamba, sized for the tiny model: its four stages at strides 4, 8, 16 and 32. The auxiliary head reads the
# third.
_base_ = './upernet.py'

embed_dims = 96

model = dict(
    backbone=dict(type='VMamba', arch='tiny', out_indices=(0, 1, 2, 3), drop_path_rate=0.2),
    decode_head=dict(in_channels=[embed_dims * 2**i for i in range(4)]),
    auxiliary_head=dict(in_channels=embed_dims * 4, in_index=2),
)
