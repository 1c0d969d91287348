# VMamba classifier, sized for the tiny model: the mean over the cells of the last stage's normalised map, then a linear
# layer.
_base_ = './classifier.py'

model = dict(
    backbone=dict(type='VMamba', arch='tiny', out_indices=-1, out_type='avg_featmap', drop_path_rate=0.2),
    head=dict(in_channels=768, init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)),
)
