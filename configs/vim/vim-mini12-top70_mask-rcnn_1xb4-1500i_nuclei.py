# 70 % of the living tokens stay after each of three layers.
_base_ = ['./vim-mini12_mask-rcnn_1xb4-1500i_nuclei.py', '../_base_/pruning/paper.py']

model = dict(backbone=dict(pruning=dict(_base_.paper_pruning, layers=[2, 5, 8])))
