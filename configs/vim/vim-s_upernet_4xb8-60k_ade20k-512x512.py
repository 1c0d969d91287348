_base_ = './vim-t_upernet_4xb8-60k_ade20k-512x512.py'

checkpoint = 'https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
model = dict(
    backbone=dict(arch='small', init_cfg=dict(checkpoint=checkpoint)),
    decode_head=dict(in_channels=[384] * 4, channels=384),
    auxiliary_head=dict(in_channels=384),
)

# The official launch script overrides its config; as it does:
#   --cfg-options optim_wrapper.optimizer.lr=1e-4 optim_wrapper.paramwise_cfg.layer_decay_rate=0.95
