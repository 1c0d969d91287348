# Turns the released detector into one with 30 % fewer backbone FLOPs.
# From another dense model: --cfg-options load_from=PATH
_base_ = ['./vmamba-t-flops30_mask-rcnn_8xb2-1x_coco.py', '../_base_/schedules/coco_finetune_4e.py']

load_from = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2det/mask_rcnn_vssm_fpn_coco_tiny_s_epoch_12.pth'
model = dict(backbone=dict(init_cfg=None))  # all weights come from load_from

optim_wrapper = _base_.finetune_optim_wrapper
param_scheduler = _base_.finetune_param_scheduler
train_cfg = _base_.finetune_train_cfg
custom_hooks = _base_.finetune_custom_hooks
