_base_ = [
    '../_base_/models/mask_rcnn_vmamba.py',
    '../_base_/datasets/coco_instance_ms.py',
    '../_base_/schedules/schedule_3x_vmamba.py',
    '../_base_/default_runtime_det.py',
]

# ImageNet weights of the official release; for a local file or random weights see the 1x config.
checkpoint = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))
