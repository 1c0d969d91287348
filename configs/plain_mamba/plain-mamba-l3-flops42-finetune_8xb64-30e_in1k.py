# Turns a trained dense L3 into one with 41.6 % fewer backbone FLOPs: the operating point of the paper.
# --cfg-options load_from=PATH names the dense model; the official file will do as it is, also as
# load_from=https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l3.pth
_base_ = './plain-mamba-l2-flops42-finetune_8xb64-30e_in1k.py'

model = dict(backbone=dict(arch='L3'), head=dict(in_channels=448))
