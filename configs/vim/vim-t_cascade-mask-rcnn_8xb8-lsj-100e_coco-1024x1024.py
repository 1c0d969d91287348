_base_ = [
    '../_base_/models/cascade_mask_rcnn_vim.py',
    '../_base_/datasets/coco_instance_lsj_1024.py',
    '../_base_/schedules/schedule_lsj_100e.py',
    '../_base_/default_runtime_det.py',
]

# ImageNet weights of the official release; for a local file or random weights see the UperNet config of this folder.
checkpoint = 'https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))
