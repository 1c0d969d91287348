# 80k iterations of ADE20K for a light head, as PVT's for Semantic FPN but for the warm-up: next to no weight decay, on
# all parameters alike, so that backbones of every kind share it.
_base_ = './schedule_160k.py'

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=1500, end=80000),
]
train_cfg = dict(max_iters=80000)
