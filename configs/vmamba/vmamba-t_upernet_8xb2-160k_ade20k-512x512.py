_base_ = [
    '../_base_/models/upernet_vmamba.py',
    '../_base_/datasets/ade20k_512x512_any_size.py',
    '../_base_/schedules/schedule_160k_vmamba.py',
    '../_base_/default_runtime_seg.py',
]

# ImageNet weights of the official release, fetched once into torch's cache. From a file instead:
#   --cfg-options model.backbone.init_cfg.checkpoint=checkpoints/vssm1_tiny_0230s_ckpt_epoch_264.pth
# and from random weights: --cfg-options model.backbone.init_cfg=None
checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))
