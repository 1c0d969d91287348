_base_ = './vim-t_mask-rcnn_8xb8-lsj-100e_coco-1024x1024.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=384),
)
