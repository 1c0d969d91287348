# 300 epochs of ImageNet as in the VMamba recipe, which is Swin's with an average of the weights: lr 5e-4 for every 512
# images of a batch, here 8 GPUs x 128. Weight decay spares what has one dimension (norms, biases, Ds), not A_logs and
# dt_projs_bias, which have two.
_base_ = './imagenet_300e_vim.py'

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys=dict(_delete_=True)),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
