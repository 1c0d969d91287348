_base_ = './vim-mini12_upernet_1xb8-1200i_camvid-192x256.py'

model = dict(backbone=dict(pruning=dict(flops_reduction=0.2, input_shape=(240, 320))))
