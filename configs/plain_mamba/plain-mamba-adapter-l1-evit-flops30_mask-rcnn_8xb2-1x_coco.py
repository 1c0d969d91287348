_base_ = './plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'

# As published: nothing stands in for a token that is gone.
model = dict(
    backbone=dict(
        pruning=dict(flops_reduction=0.3, input_shape=(800, 1280), reduction='evit', conv_fill='zero', scan_fill='zero')
    )
)
