# A short iteration-based schedule for segmentation on the small data set: minutes on two cores.
max_iters = 450
warmup_iters = 50
checkpoint_interval = 100

no_decay = dict(decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, betas=(0.9, 0.999), weight_decay=0.01),
    # A schedule this short cannot recover from one bad early step.
    clip_grad=dict(max_norm=5.0, norm_type=2),
    paramwise_cfg=dict(
        custom_keys={
            'norm': no_decay,
            'pos_embed': no_decay,
            'cls_token': no_decay,
            '.A_': no_decay,
            '.D': no_decay,
            '.direction_Bs': no_decay,
        }
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=warmup_iters, end=max_iters),
]

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=checkpoint_interval, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
log_processor = dict(type='LogProcessor', window_size=20, by_epoch=False)

# --auto-scale-lr scales from 1 GPU (or CPU) x 8 images.
auto_scale_lr = dict(enable=False, base_batch_size=8)
