_base_ = [
    '../_base_/models/mask_rcnn_plain_mamba_adapter.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime_det.py',
]

# ImageNet weights of the official release, fetched once into torch's cache. From a file instead:
#   --cfg-options model.backbone.init_cfg.checkpoint=checkpoints/plain_mamba_l1.pth
# and from random weights: --cfg-options model.backbone.init_cfg=None
checkpoint = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l1.pth'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')))

# A training step takes 13 GiB (on the CPU), or 5 GiB with --cfg-options model.backbone.with_cp=True.

# The recipe trains on images without objects too.
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))
