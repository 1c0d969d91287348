_base_ = './vmamba-t_mask-rcnn_8xb2-1x_coco.py'

model = dict(backbone=dict(pruning=dict(flops_reduction=0.3, input_shape=(800, 1280), reduction='merge')))
