# What all tasks share. Hooks and log_processor count in epochs or iterations, so they live in the schedules.
custom_imports = dict(
    imports=['mmssmprune.models', 'mmssmprune.engine', 'mmssmprune.analysis'], allow_failed_imports=False
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(vis_backends=vis_backends, name='visualizer')

log_level = 'INFO'
load_from = None
resume = False
