_base_ = [
    '../_base_/models/mask_rcnn_vmamba.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x_vmamba.py',
    '../_base_/default_runtime_det.py',
]

# ImageNet weights of the official release, fetched once into torch's cache. From a file instead:
#   --cfg-options model.backbone.init_cfg.checkpoint=checkpoints/vssm1_tiny_0230s_ckpt_epoch_264.pth
# and from random weights: --cfg-options model.backbone.init_cfg=None
checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))
