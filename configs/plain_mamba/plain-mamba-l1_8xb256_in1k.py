_base_ = [
    '../_base_/models/plain_mamba_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_300e_plain_mamba.py',
    '../_base_/default_runtime_cls.py',
]

# The official L1 was trained in mixed precision: add --amp.
