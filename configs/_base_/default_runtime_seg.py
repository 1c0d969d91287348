# Hooks and log_processor live in the schedules, beside the interval they count.
default_scope = 'mmseg'
custom_imports = dict(
    imports=['mmssmprune.models', 'mmssmprune.engine', 'mmssmprune.analysis'], allow_failed_imports=False
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# Under a launcher every BatchNorm, those of the backbone's stem included, becomes SyncBatchNorm.
sync_bn = 'torch'
randomness = dict(seed=0)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
tta_model = dict(type='SegTTAModel')

log_level = 'INFO'
load_from = None
resume = False
