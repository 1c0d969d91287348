# 60k iterations of ADE20K with layer-wise learning-rate decay, as the Vim segmentation recipe. Weight decay spares the
# position embedding and all vectors: norms, biases and D, but not A_log.
_base_ = './schedule_160k.py'

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.92, flat_decay_mult=0.0, custom_keys=dict(pos_embed=dict(decay_mult=0.0))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=60000),
]
train_cfg = dict(max_iters=60000, val_interval=5000)
default_hooks = dict(checkpoint=dict(interval=5000))

# --auto-scale-lr scales from 4 GPUs x 8 images.
auto_scale_lr = dict(base_batch_size=32)
