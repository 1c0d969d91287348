# PlainMamba classifier, sized for L1: the mean over the tokens of the last layer, normalised, then a linear layer. The
# keys are those of the official release, whose files load as they are.
_base_ = './classifier.py'

model = dict(
    backbone=dict(type='PlainMamba', arch='L1', img_size=224, out_type='avg_featmap', drop_path_rate=0.2),
    head=dict(in_channels=192),
)
