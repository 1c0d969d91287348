# One model for every keep ratio: fine-tunes the released segmentor, or what --cfg-options load_from=PATH names, dense
# or pruned. The ratios save about 0, 8, 19 and 30 % of the backbone's FLOPs.
_base_ = './vmamba-t-flops30-finetune_upernet_8xb2-40k_ade20k-512x512.py'

custom_hooks = [dict(type='ElasticKeepRatioHook', keep_ratios=[1.0, 0.75, 0.55, 0.36])]
