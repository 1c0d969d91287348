# What segmentors of ADE20K's crops of 512x512 share, whatever their backbone and heads.
norm_cfg = dict(type='SyncBN', requires_grad=True)  # plain BatchNorm without a launcher

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
