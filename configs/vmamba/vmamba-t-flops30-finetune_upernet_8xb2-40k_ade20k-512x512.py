# Turns the released segmentor into one with 30 % fewer backbone FLOPs.
# From another dense model: --cfg-options load_from=PATH
_base_ = ['./vmamba-t-flops30_upernet_8xb2-160k_ade20k-512x512.py', '../_base_/schedules/ade20k_finetune_40k.py']

release = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2seg/'
load_from = release + 'upernet_vssm_4xb4-160k_ade20k-512x512_tiny_s_iter_160000.pth'
model = dict(backbone=dict(init_cfg=None))  # all weights come from load_from

optim_wrapper = _base_.finetune_optim_wrapper
param_scheduler = _base_.finetune_param_scheduler
train_cfg = _base_.finetune_train_cfg
custom_hooks = _base_.finetune_custom_hooks
