_base_ = './vmamba-t_upernet_8xb2-160k_ade20k-512x512.py'

# As published: nothing stands in for a token that is gone.
model = dict(
    backbone=dict(
        pruning=dict(
            flops_reduction=0.3, input_shape=(512, 2048), reduction='merge', conv_fill='zero', scan_fill='zero'
        )
    )
)
