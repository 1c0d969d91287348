# UperNet with 64 channels for the small data sets; the backbone's four taps share one stride.
embed_dims = 64
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
        size_divisor=16,
        test_cfg=dict(size_divisor=16),
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[embed_dims] * 4,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=64,
        dropout_ratio=0.0,
        num_classes=9,
        norm_cfg=norm_cfg,
        align_corners=False,
        # Things and coins cover few pixels, and the two fours share theirs: unweighted, a short training predicts none.
        loss_decode=dict(
            type='CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=1.0,
            class_weight=[1.0] * 4 + [5.0] * 3 + [10.0] * 2,
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
