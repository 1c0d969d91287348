_base_ = [
    '../_base_/models/retinanet_plain_mamba_adapter.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime_det.py',
]

# ImageNet weights of the official release; for a local file or random weights see the Mask R-CNN config of this folder.
checkpoint = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l1.pth'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
# The stride-4 output of the adapter is not used by RetinaNet.
find_unused_parameters = True
