_base_ = './plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'

# The adapter is not pruned: after the default layer 5 all tokens would not save enough, and after layer 0 few may stay.
model = dict(backbone=dict(pruning=dict(flops_reduction=0.4, input_shape=(800, 1280), layers=[0])))
