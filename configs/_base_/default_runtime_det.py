_base_ = './default_runtime.py'

default_scope = 'mmdet'
env_cfg = dict(cudnn_benchmark=False)
# Under a launcher every BatchNorm, those of the backbone's stem included, becomes SyncBatchNorm.
sync_bn = 'torch'
visualizer = dict(type='DetLocalVisualizer')
