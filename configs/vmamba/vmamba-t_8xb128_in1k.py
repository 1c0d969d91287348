_base_ = [
    '../_base_/models/vmamba_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_300e_vmamba.py',
    '../_base_/default_runtime_cls.py',
]

train_dataloader = dict(batch_size=128)

# The official models were trained in mixed precision: add --amp.
