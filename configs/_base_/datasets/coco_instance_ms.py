# COCO 2017, boxes and masks, at several scales as DETR trains: the short side is 480 to 800 pixels long, and half the
# images are cropped to at most 384x600 before that.
_base_ = './coco_instance.py'

to_short_side = dict(type='RandomChoiceResize', scales=[(side, 1333) for side in range(480, 801, 32)], keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [to_short_side],
            [
                dict(type='RandomChoiceResize', scales=[(side, 1333) for side in (400, 500, 600)], keep_ratio=True),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                to_short_side,
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
