# The small segmentation set that the project makes (`make data`): ADE20K's folders and label maps (0 is unlabelled),
# nine classes, scenes of 128x128 pixels. Two classes differ only by a marker elsewhere in the image. No flips: a
# mirrored digit is no digit.
dataset_type = 'BaseSegDataset'
data_root = '{{$MMSSMPRUNE_DATA_ROOT:data}}/mini_ade'
metainfo = dict(
    classes=('background', 'grass', 'brick', 'gravel', 'coin', 'zero', 'one', 'four_red', 'four_blue'),
    palette=[
        [31, 119, 180],
        [255, 127, 14],
        [44, 160, 44],
        [214, 39, 40],
        [148, 103, 189],
        [140, 86, 75],
        [227, 119, 194],
        [127, 127, 127],
        [188, 189, 34],
    ],
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
test_pipeline = train_pipeline

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        metainfo=metainfo,
        reduce_zero_label=True,
        img_suffix='.png',
        seg_map_suffix='.png',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        metainfo=metainfo,
        reduce_zero_label=True,
        img_suffix='.png',
        seg_map_suffix='.png',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
