# Vim classifier, sized for the tiny model: the class token in the middle of the sequence, then a linear layer.
_base_ = './classifier.py'

model = dict(
    backbone=dict(type='Vim', arch='tiny', img_size=224, out_type='cls_token', drop_path_rate=0.0),
    head=dict(in_channels=192, init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)),
)
