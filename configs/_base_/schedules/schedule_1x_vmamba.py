# 12 epochs of COCO as the VMamba detection recipe, which is Swin's: a longer warm-up, and weight decay spares what has
# "norm" in its name and nothing else.
_base_ = './schedule_1x.py'

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True, norm=dict(decay_mult=0.0))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
