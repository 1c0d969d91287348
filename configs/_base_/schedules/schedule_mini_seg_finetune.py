# Fine-tuning of a small segmentation model that is trained already: 150 iterations at a fifth of its learning rate.
# Only what differs from schedule_mini_seg.py, under names of its own: two files in one _base_ list may not share any,
# so a config takes them over with `optim_wrapper = _base_.finetune_optim_wrapper` and so on.
finetune_max_iters = 150
finetune_warmup_iters = 10

finetune_optim_wrapper = dict(optimizer=dict(lr=6e-4))
finetune_param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=finetune_warmup_iters),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=finetune_warmup_iters, end=finetune_max_iters),
]
finetune_train_cfg = dict(max_iters=finetune_max_iters, val_interval=finetune_max_iters)
