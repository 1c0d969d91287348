# A twelve-block VMamba in four stages on CamVid: 10800, 2700, 690 and 180 tokens (patches of 4 on 360x480 pixels). The
# head reads strides 8, 16 and 32: at stride 4 it would take half of the training's time.
_base_ = [
    '../_base_/models/upernet_camvid.py',
    '../_base_/datasets/camvid_288x384.py',
    '../_base_/schedules/schedule_camvid.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(
    backbone=dict(type='VMamba', arch=dict(embed_dims=24, depths=(1, 1, 8, 2), ssm_ratio=1.0), out_indices=(1, 2, 3)),
    decode_head=dict(in_channels=[48, 96, 192], in_index=[0, 1, 2]),
)
