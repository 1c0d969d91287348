# Turns the released VMamba-T into one with 30 % fewer backbone FLOPs, with the fine-tuning that the paper on token
# pruning uses for its classifiers; it has no VMamba.
_base_ = ['./vmamba-t_8xb128_in1k.py', '../_base_/schedules/imagenet_finetune_30e.py']

# Another dense model: --cfg-options load_from=PATH
load_from = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth'
model = dict(backbone=dict(drop_path_rate=0.0, pruning=dict(flops_reduction=0.3, input_shape=(224, 224))))

optim_wrapper = _base_.finetune_optim_wrapper
param_scheduler = _base_.finetune_param_scheduler
train_dataloader = _base_.finetune_train_dataloader
train_cfg = _base_.finetune_train_cfg
default_hooks = _base_.finetune_default_hooks
auto_scale_lr = _base_.finetune_auto_scale_lr
custom_hooks = []  # no average of the weights
