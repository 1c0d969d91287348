_base_ = './plain-mamba-adapter-l2_retinanet_8xb2-1x_coco.py'

# The adapter is not pruned: after the default layer 5 only 3 % of the tokens could stay.
model = dict(backbone=dict(pruning=dict(flops_reduction=0.4, input_shape=(800, 1280), layers=[1])))
