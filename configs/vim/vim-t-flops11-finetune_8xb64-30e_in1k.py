# Turns a trained dense Vim-T into the pruned one of the paper: 1.29 of 1.45 G FLOPs as quoted of it, after the
# tenth and the twentieth of 24 blocks.
# --cfg-options load_from=PATH names the dense model; the official file comes through
# tools/model_converters/convert_official.py.
_base_ = ['./vim-t_8xb128_in1k.py', '../_base_/schedules/imagenet_finetune_30e.py']

# The paper counts by another convention than this project, so the share of FLOPs is what carries over.
pruning = dict(layers=[9, 19], flops_reduction=0.11, input_shape=(224, 224), importance='clip', alignment='carry')
model = dict(backbone=dict(drop_path_rate=0.0, pruning=pruning))

optim_wrapper = _base_.finetune_optim_wrapper
param_scheduler = _base_.finetune_param_scheduler
train_dataloader = _base_.finetune_train_dataloader
train_cfg = _base_.finetune_train_cfg
default_hooks = _base_.finetune_default_hooks
auto_scale_lr = _base_.finetune_auto_scale_lr
custom_hooks = []  # no average of the weights
