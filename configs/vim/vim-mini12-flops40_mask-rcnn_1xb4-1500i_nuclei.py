_base_ = './vim-mini12_mask-rcnn_1xb4-1500i_nuclei.py'

model = dict(backbone=dict(pruning=dict(flops_reduction=0.4, input_shape=(256, 256))))
