_base_ = [
    '../_base_/models/semantic_fpn.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/schedule_80k.py',
    '../_base_/default_runtime_seg.py',
]

# ImageNet weights of the official release; for a local file or random weights see the UperNet config.
checkpoint = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l1.pth'
# The four taps share one stride, as in the UperNet config, and so does the head's map.
model = dict(
    backbone=dict(
        type='PlainMamba',
        arch='L1',
        out_indices=(5, 11, 17, 23),
        drop_path_rate=0.1,
        final_norm=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    neck=dict(in_channels=[192] * 4),
    decode_head=dict(feature_strides=[16] * 4),
)
