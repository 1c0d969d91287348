# Fine-tuning of a trained dense detector to a pruned one: a third of the 1x schedule at a fifth of its learning rate.
# The ratio sinks over the first of four epochs, the maps of the dense model are a second target, and layers near the
# input learn more slowly. To be able to resume, name the dense model as teacher as well.
# Only what differs from the 12 epochs, under names of its own: see imagenet_finetune_30e.py.
finetune_optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=2e-5),
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
finetune_param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=4, milestones=[3], gamma=0.1),
]
finetune_train_cfg = dict(max_epochs=4)
finetune_custom_hooks = [
    dict(type='KeepRatioWarmupHook', end=7330),  # iterations of an epoch on 8 GPUs
    dict(type='DistillationHook', teacher=None, loss_weight=1.0),
]
