# Turns the released detector into one with 30 % fewer backbone FLOPs: a third of the 1x schedule at a fifth of its
# learning rate. The ratio sinks over the first of four epochs, the maps of the dense model are a second target, and
# layers near the input learn more slowly. From another dense model: --cfg-options load_from=PATH. To be able to resume,
# name the dense model as teacher as well.
_base_ = './vmamba-t-flops30_mask-rcnn_8xb2-1x_coco.py'

load_from = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2det/mask_rcnn_vssm_fpn_coco_tiny_s_epoch_12.pth'
model = dict(backbone=dict(init_cfg=None))  # all weights come from load_from

optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=2e-5),
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=4, milestones=[3], gamma=0.1),
]
train_cfg = dict(max_epochs=4)
custom_hooks = [
    dict(type='KeepRatioWarmupHook', end=7330),  # iterations of an epoch on 8 GPUs
    dict(type='DistillationHook', teacher=None, loss_weight=1.0),
]
