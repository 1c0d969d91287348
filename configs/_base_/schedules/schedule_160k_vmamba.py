# 160k iterations of ADE20K as the VMamba segmentation recipe, which is Swin's: weight decay spares what has "norm" in
# its name and nothing else.
_base_ = './schedule_160k.py'

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True, norm=dict(decay_mult=0.0))))
train_cfg = dict(val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
