# CamVid in the 11 classes of SegNet, at 240x320 of its 360x480 pixels, random crops of 192x256. On disk, as
# tools/dataset_tools/prepare_data.py lays it out (or set MMSSMPRUNE_DATA_ROOT to the folder that holds camvid/):
#   data/camvid/{images,annotations}/{train,val,test}/
# Training reads train, and what is reported comes from the 233 frames of test at their full size. Label 11 is void: it
# is ignored here, by the head and by the metric. Frames of one drive look alike, so val is left for choices.
dataset_type = 'BaseSegDataset'
data_root = '{{$MMSSMPRUNE_DATA_ROOT:data}}/camvid'
metainfo = dict(
    classes=(
        'sky',
        'building',
        'pole',
        'road',
        'pavement',
        'tree',
        'sign symbol',
        'fence',
        'car',
        'pedestrian',
        'bicyclist',
    ),
    palette=[
        [128, 128, 128],
        [128, 0, 0],
        [192, 192, 128],
        [128, 64, 128],
        [60, 40, 222],
        [128, 128, 0],
        [192, 128, 128],
        [64, 64, 128],
        [64, 0, 128],
        [64, 64, 0],
        [0, 128, 192],
    ],
)
void = 11
image_scale = (320, 240)
crop_size = (192, 256)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, ignore_index=void),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    # The label map stays at its own size: predictions are resized to it.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        metainfo=metainfo,
        ignore_index=void,
        img_suffix='.jpg',
        seg_map_suffix='.png',
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
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
        ignore_index=void,
        img_suffix='.jpg',
        seg_map_suffix='.png',
        data_root=data_root,
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index=void)
test_evaluator = val_evaluator
