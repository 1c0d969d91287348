# Fine-tuning of a trained dense segmentor to a pruned one: a quarter of the 160k schedule at a fifth of its learning
# rate. The ratio sinks over the first 10k iterations, the maps of the dense model are a second target, and layers near
# the input learn more slowly. To be able to resume, name the dense model as teacher as well.
# Only what differs from the 160k iterations, under names of its own: see imagenet_finetune_30e.py.
finetune_optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=1.2e-5),
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
finetune_param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=500, end=40000),
]
finetune_train_cfg = dict(max_iters=40000, val_interval=8000)
finetune_custom_hooks = [
    dict(type='KeepRatioWarmupHook', end=10000),
    dict(type='DistillationHook', teacher=None, loss_weight=1.0),
]
