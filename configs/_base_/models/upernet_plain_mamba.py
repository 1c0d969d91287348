# UperNet on PlainMamba, sized for L1: four taps at equal quarters of the depth, all at stride 16.
_base_ = './upernet.py'

model = dict(
    backbone=dict(type='PlainMamba', arch='L1', out_indices=(5, 11, 17, 23), drop_path_rate=0.1, final_norm=True)
)
