_base_ = './vim-s_mask-rcnn_8xb8-lsj-100e_coco-1024x1024.py'

# As published: nothing stands in for a token that is gone.
model = dict(
    backbone=dict(
        pruning=dict(
            flops_reduction=0.3, input_shape=(1024, 1024), reduction='merge', conv_fill='zero', scan_fill='zero'
        )
    )
)
