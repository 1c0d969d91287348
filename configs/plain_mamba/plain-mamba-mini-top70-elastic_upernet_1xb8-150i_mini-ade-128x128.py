# One model for every keep ratio: fine-tunes a trained model, dense or pruned, that --cfg-options load_from=PATH names.
_base_ = [
    './plain-mamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
    '../_base_/schedules/schedule_mini_seg_finetune.py',
]
max_iters = _base_.finetune_max_iters
warmup_iters = _base_.finetune_warmup_iters
optim_wrapper = _base_.finetune_optim_wrapper
param_scheduler = _base_.finetune_param_scheduler
train_cfg = _base_.finetune_train_cfg
custom_hooks = [dict(type='ElasticKeepRatioHook', keep_ratios=[1.0, 0.8, 0.6, 0.4])]
