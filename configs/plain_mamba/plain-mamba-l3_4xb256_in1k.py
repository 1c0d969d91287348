_base_ = './plain-mamba-l2_8xb256_in1k.py'

model = dict(backbone=dict(arch='L3', drop_path_rate=0.4), head=dict(in_channels=448))

# Half the batch of L1 and L2, so half their learning rate.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=1024)
