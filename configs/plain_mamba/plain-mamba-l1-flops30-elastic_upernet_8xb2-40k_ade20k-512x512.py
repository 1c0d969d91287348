# One model for every keep ratio: fine-tunes a trained model, dense or pruned, that --cfg-options load_from=PATH names.
# The ratios save about 0, 10, 25 and 40 % of the backbone's FLOPs.
_base_ = './plain-mamba-l1-flops30-finetune_upernet_8xb2-40k_ade20k-512x512.py'

custom_hooks = [dict(type='ElasticKeepRatioHook', keep_ratios=[1.0, 0.75, 0.5, 0.25])]
