# Turns a trained dense model, which --cfg-options load_from=PATH names, into one with 30 % fewer backbone FLOPs.
_base_ = [
    './plain-mamba-l1-flops30_upernet_8xb2-160k_ade20k-512x512.py',
    '../_base_/schedules/ade20k_finetune_40k.py',
]

model = dict(backbone=dict(init_cfg=None))  # all weights come from load_from

optim_wrapper = _base_.finetune_optim_wrapper
param_scheduler = _base_.finetune_param_scheduler
train_cfg = _base_.finetune_train_cfg
custom_hooks = _base_.finetune_custom_hooks
