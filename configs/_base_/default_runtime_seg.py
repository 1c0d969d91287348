_base_ = './default_runtime.py'

default_scope = 'mmseg'
# Under a launcher every BatchNorm, those of the backbone's stem included, becomes SyncBatchNorm.
sync_bn = 'torch'
visualizer = dict(type='SegLocalVisualizer')
tta_model = dict(type='SegTTAModel')
