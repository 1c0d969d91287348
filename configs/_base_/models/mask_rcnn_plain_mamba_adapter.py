# Mask R-CNN on PlainMambaAdapter, sized for L1 (192 channels at strides 4, 8, 16, 32).
_base_ = './mask_rcnn.py'

embed_dims = 192

model = dict(
    backbone=dict(
        type='PlainMambaAdapter',
        arch='L1',
        drop_path_rate=0.1,
        final_norm=False,
        interaction_indexes=[[0, 5], [6, 11], [12, 17], [18, 23]],
        conv_inplane=64,
        n_points=4,
        deform_num_heads=6,
        deform_ratio=1.0,
        cffn_ratio=0.25,
    ),
    neck=dict(type='FPN', in_channels=[embed_dims] * 4, out_channels=256, num_outs=5, norm_cfg=_base_.norm_cfg),
)
