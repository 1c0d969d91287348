# Turns a trained dense model, which --cfg-options load_from=PATH names, into one that is pruned to 70 % three times.
# With the three means there are: the ratio sinks over the first 50 iterations, the maps of the dense model are a second
# target, and layers near the input learn more slowly. To be able to resume, name the dense model as teacher as well.
_base_ = [
    './plain-mamba-mini-top70_upernet_1xb8-450i_mini-ade-128x128.py',
    '../_base_/schedules/schedule_mini_seg_finetune.py',
]
max_iters = _base_.finetune_max_iters
warmup_iters = _base_.finetune_warmup_iters
optim_wrapper = dict(
    _base_.finetune_optim_wrapper,
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
param_scheduler = _base_.finetune_param_scheduler
train_cfg = _base_.finetune_train_cfg
custom_hooks = [
    dict(type='KeepRatioWarmupHook', end=50),
    dict(type='DistillationHook', teacher=None, loss_weight=1.0),
]
