# 1500 iterations of 4 images for small detectors on photographs: about half an hour on one thread.
_base_ = './schedule_mini_det.py'

max_iters = 1500
warmup_iters = 100

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=False, begin=warmup_iters, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
# --auto-scale-lr scales from 1 GPU (or CPU) x 4 images.
auto_scale_lr = dict(base_batch_size=4)
