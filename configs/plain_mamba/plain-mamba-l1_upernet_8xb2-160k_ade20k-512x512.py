_base_ = [
    '../_base_/models/upernet_plain_mamba.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/schedule_160k.py',
    '../_base_/default_runtime_seg.py',
]

# ImageNet weights of the official release, fetched once into torch's cache. From a file instead:
#   --cfg-options model.backbone.init_cfg.checkpoint=checkpoints/plain_mamba_l1.pth
# and from random weights: --cfg-options model.backbone.init_cfg=None
checkpoint = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l1.pth'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')))
