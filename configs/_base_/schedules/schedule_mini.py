# What the short schedules for the small data sets share: minutes on two cores. They want an InfiniteSampler in the
# train_dataloader.
checkpoint_interval = 100

no_decay = dict(decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', betas=(0.9, 0.999)),
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

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=checkpoint_interval, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
log_processor = dict(type='LogProcessor', window_size=20, by_epoch=False)

# --auto-scale-lr scales from 1 GPU (or CPU) x 8 images.
auto_scale_lr = dict(enable=False, base_batch_size=8)
