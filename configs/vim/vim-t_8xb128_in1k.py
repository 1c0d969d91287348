_base_ = [
    '../_base_/models/vim_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_300e_vim.py',
    '../_base_/default_runtime_cls.py',
]

# Repeated augmentation: each image three times, augmented anew, on different GPUs. An epoch is as long as without it,
# so it shows a third of the images.
train_dataloader = dict(batch_size=128, drop_last=True, sampler=dict(type='RepeatAugSampler', shuffle=True))
