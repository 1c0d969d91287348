_base_ = './plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'

model = dict(backbone=dict(pruning=dict(flops_reduction=0.4, input_shape=(800, 1280))))
