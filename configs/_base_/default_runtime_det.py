# Hooks and log_processor count in epochs or iterations, so they live in the schedules.
default_scope = 'mmdet'
custom_imports = dict(
    imports=['mmssmprune.models', 'mmssmprune.engine', 'mmssmprune.analysis'], allow_failed_imports=False
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# Under a launcher every BatchNorm, those of the backbone's stem included, becomes SyncBatchNorm.
sync_bn = 'torch'
randomness = dict(seed=0)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')

log_level = 'INFO'
load_from = None
resume = False
