_base_ = [
    '../_base_/models/semantic_fpn.py',
    '../_base_/datasets/ade20k_512x512_slide.py',
    '../_base_/schedules/schedule_80k.py',
    '../_base_/default_runtime_seg.py',
]

# ImageNet weights of the official release; for a local file or random weights see the UperNet config.
checkpoint = 'https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth'
# Backbone, padding and sliding window as in the UperNet config.
model = dict(
    data_preprocessor=dict(test_cfg=dict(size=(512, 512))),
    backbone=dict(
        type='Vim',
        arch='tiny',
        img_size=512,
        out_indices=(5, 11, 17, 23),
        with_fpn=True,
        if_cls_token=False,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    ),
    neck=dict(in_channels=[192] * 4),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)

train_dataloader = dict(batch_size=2, num_workers=2)
