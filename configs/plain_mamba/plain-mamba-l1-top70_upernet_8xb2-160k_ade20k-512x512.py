# 70 % of the living tokens stay after each of three layers: 70, 49 and 34 % of the grid. To start from a trained dense
# model instead of ImageNet weights: --cfg-options load_from=<its checkpoint>
_base_ = ['./plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py', '../_base_/pruning/paper.py']

model = dict(backbone=dict(pruning=dict(_base_.paper_pruning, layers=[5, 11, 17])))
