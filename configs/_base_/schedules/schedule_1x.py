# 12 epochs of COCO with AdamW. Weight decay spares what the PlainMamba detection recipe names: norms, biases,
# embeddings and the parameters of the recurrence.
no_decay = dict(decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            'norm': no_decay,
            'bias': no_decay,
            'level_embed': no_decay,
            'pos_embed': no_decay,
            '.A_log': no_decay,
            '.D': no_decay,
            '.direction_Bs': no_decay,
        }
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

# --auto-scale-lr scales from 8 GPUs x 2 images.
auto_scale_lr = dict(enable=False, base_batch_size=16)
