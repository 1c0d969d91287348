# 70 % of the living tokens stay after each of three layers: two layers each see 256, 180, 126 and 89 tokens.
_base_ = ['./vim-mini_upernet_1xb8-450i_mini-ade-128x128.py', '../_base_/pruning/paper.py']

model = dict(backbone=dict(pruning=dict(_base_.paper_pruning, layers=[1, 3, 5])))
