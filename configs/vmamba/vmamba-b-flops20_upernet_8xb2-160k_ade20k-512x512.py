_base_ = './vmamba-b_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(backbone=dict(pruning=dict(flops_reduction=0.2, input_shape=(512, 2048))))
