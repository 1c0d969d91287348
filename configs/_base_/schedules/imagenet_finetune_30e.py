# Fine-tuning of a trained dense classifier to a pruned one, as in the logs of the paper's public code: 30 epochs, 8
# GPUs x 64, a learning rate that sinks from 1e-5 to 5e-6 in five epochs and rises to 1e-5 again, next to no weight
# decay.
# Only what differs from the 300 epochs, under names of its own: two files in one _base_ list may not share any, so a
# config takes them over with `optim_wrapper = _base_.finetune_optim_wrapper` and so on.
finetune_optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8))
finetune_param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.5,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=30, convert_to_iter_based=True),
]
finetune_train_dataloader = dict(batch_size=64)
finetune_train_cfg = dict(max_epochs=30, val_interval=1)
finetune_default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3))
finetune_auto_scale_lr = dict(base_batch_size=512)
