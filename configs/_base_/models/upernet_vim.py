# UperNet on Vim, sized for the tiny model: four taps pass the backbone's own pyramid to strides 4, 8, 16, 32, the heads
# are as wide as the backbone, and testing slides a window of the training size.
_base_ = './upernet.py'

embed_dims = 192

model = dict(
    # A window does not fit into every image (one of 5:1 becomes 410x2048): as in training, what is missing is padded.
    data_preprocessor=dict(test_cfg=dict(size=(512, 512))),
    backbone=dict(
        type='Vim',
        arch='tiny',
        img_size=512,
        out_indices=(5, 11, 17, 23),
        with_fpn=True,
        if_cls_token=False,
        drop_path_rate=0.1,
    ),
    decode_head=dict(channels=embed_dims),
    auxiliary_head=dict(in_index=2),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
