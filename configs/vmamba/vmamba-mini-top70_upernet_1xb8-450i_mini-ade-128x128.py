# 70 % of the living tokens stay after each of three blocks: the third stage begins with 45 of its 64 and ends with 23.
_base_ = ['./vmamba-mini_upernet_1xb8-450i_mini-ade-128x128.py', '../_base_/pruning/paper.py']

model = dict(backbone=dict(pruning=dict(_base_.paper_pruning, layers=[1, 2, 3])))
