_base_ = './vmamba-s_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(backbone=dict(pruning=dict(flops_reduction=0.4, input_shape=(512, 2048))))
