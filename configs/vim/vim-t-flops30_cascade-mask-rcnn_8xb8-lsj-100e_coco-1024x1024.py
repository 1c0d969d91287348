_base_ = './vim-t_cascade-mask-rcnn_8xb8-lsj-100e_coco-1024x1024.py'

model = dict(backbone=dict(pruning=dict(flops_reduction=0.3, input_shape=(1024, 1024))))
