_base_ = './vim-mini12_upernet_1xb8-1200i_camvid-192x256.py'

# As published: nothing stands in for a token that is gone.
model = dict(
    backbone=dict(
        pruning=dict(
            flops_reduction=0.4,
            input_shape=(240, 320),
            reduction='merge',
            importance='clip',
            conv_fill='zero',
            scan_fill='zero',
        )
    )
)
