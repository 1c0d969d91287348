# 70 % of the living tokens stay after each of three layers.
_base_ = ['./vim-mini12_upernet_1xb8-1200i_camvid-192x256.py', '../_base_/pruning/paper.py']

model = dict(backbone=dict(pruning=dict(_base_.paper_pruning, layers=[2, 5, 8])))
