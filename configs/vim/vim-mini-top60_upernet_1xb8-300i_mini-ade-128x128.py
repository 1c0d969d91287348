# 60 % of the living tokens stay after each of two layers: layers 0 to 3 see all 256, 4 and 5 see 154, 6 and 7 see 93.
_base_ = './vim-mini_upernet_1xb8-300i_mini-ade-128x128.py'

model = dict(
    backbone=dict(
        pruning=dict(
            layers=[3, 5],
            keep_ratio=0.6,
            importance='clip',
            alignment='carry',
            conv_fill='zero',
            restoration='hold',
        )
    )
)
