# One model for every keep ratio: fine-tunes a trained model, dense or pruned, that --cfg-options load_from=PATH names.
# The ratios save about 0, 8, 19 and 30 % of the backbone's FLOPs.
_base_ = './plain-mamba-adapter-l1-flops30-finetune_mask-rcnn_8xb2-4e_coco.py'

custom_hooks = [dict(type='ElasticKeepRatioHook', keep_ratios=[1.0, 0.7, 0.4, 0.1])]
