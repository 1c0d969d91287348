# Turns a trained dense L2 into one with 41.6 % fewer backbone FLOPs, as many as the paper takes from L3;
# it has no L2. --cfg-options load_from=PATH names the dense model; the official file will do as it is, also as
# load_from=https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l2.pth
_base_ = ['./plain-mamba-l2_8xb256_in1k.py', '../_base_/schedules/imagenet_finetune_30e.py']

# Layers as the paper's public code has them for Vim-S, after the fifth and every fifth from there; those that it took
# for PlainMamba are not public.
pruning = dict(start=4, every=5, flops_reduction=0.416, input_shape=(224, 224), importance='clip', alignment='carry')
model = dict(backbone=dict(drop_path_rate=0.0, pruning=pruning))

optim_wrapper = _base_.finetune_optim_wrapper
param_scheduler = _base_.finetune_param_scheduler
train_dataloader = _base_.finetune_train_dataloader
train_cfg = _base_.finetune_train_cfg
default_hooks = _base_.finetune_default_hooks
auto_scale_lr = _base_.finetune_auto_scale_lr
custom_hooks = []  # no average of the weights
