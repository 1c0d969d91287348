# Turns the released segmentor into one with 30 % fewer backbone FLOPs: a quarter of the 160k schedule at a fifth of its
# learning rate. The ratio sinks over the first 10k iterations, the maps of the dense model are a second target, and
# layers near the input learn more slowly. From another dense model: --cfg-options load_from=PATH. To be able to resume,
# name the dense model as teacher as well.
_base_ = './vmamba-t-flops30_upernet_8xb2-160k_ade20k-512x512.py'

release = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2seg/'
load_from = release + 'upernet_vssm_4xb4-160k_ade20k-512x512_tiny_s_iter_160000.pth'
model = dict(backbone=dict(init_cfg=None))  # all weights come from load_from

optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=1.2e-5),
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=500, end=40000),
]
train_cfg = dict(max_iters=40000, val_interval=8000)
custom_hooks = [
    dict(type='KeepRatioWarmupHook', end=10000),
    dict(type='DistillationHook', teacher=None, loss_weight=1.0),
]
