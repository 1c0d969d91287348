_base_ = [
    '../_base_/models/upernet_vim.py',
    '../_base_/datasets/ade20k_512x512_slide.py',
    '../_base_/schedules/schedule_60k.py',
    '../_base_/default_runtime_seg.py',
]

# ImageNet weights of the official release, fetched once into torch's cache. From a file instead:
#   --cfg-options model.backbone.init_cfg.checkpoint=checkpoints/vim_t_midclstok_76p1acc.pth
# and from random weights: --cfg-options model.backbone.init_cfg=None
checkpoint = 'https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))

# The official launch script overrides its config; as it does:
#   --cfg-options optim_wrapper.optimizer.lr=2e-4 optim_wrapper.optimizer.weight_decay=0.1
