# UperNet with 64 channels on four taps of 96 channels at one stride, for the 11 classes of CamVid; label 11 is void.
_base_ = './upernet_mini.py'

embed_dims = 96

model = dict(
    data_preprocessor=dict(seg_pad_val=11),
    decode_head=dict(
        in_channels=[embed_dims] * 4,
        num_classes=11,
        ignore_index=11,
        loss_decode=dict(class_weight=None),
    ),
)
