_base_ = './plain-mamba-l1_8xb256_in1k.py'

model = dict(backbone=dict(arch='L2'), head=dict(in_channels=384))

optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
warmup_epochs = 20
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-2,
        by_epoch=True,
        begin=warmup_epochs,
        end=300,
        convert_to_iter_based=True,
    ),
]
# An average of the weights, which is what validation measures and what checkpoints hold.
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
