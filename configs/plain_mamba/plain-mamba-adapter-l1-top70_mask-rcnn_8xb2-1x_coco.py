# 70 % of the living tokens stay after each of three layers: 70, 49 and 34 % of the grid. To start from a trained dense
# model instead of ImageNet weights: --cfg-options load_from=<its checkpoint>
_base_ = ['./plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py', '../_base_/pruning/paper.py']

model = dict(backbone=dict(pruning=dict(_base_.paper_pruning, layers=[5, 11, 17])))
