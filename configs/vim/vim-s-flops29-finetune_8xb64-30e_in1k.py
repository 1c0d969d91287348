# Turns a trained dense Vim-S into the pruned one of the paper: 3.60 of 5.08 G FLOPs as quoted of it, after the
# fifth, the tenth and the fifteenth of 24 blocks.
# --cfg-options load_from=PATH names the dense model; the official file comes through
# tools/model_converters/convert_official.py.
_base_ = './vim-t-flops11-finetune_8xb64-30e_in1k.py'

pruning = dict(layers=[4, 9, 14], flops_reduction=0.291)
model = dict(backbone=dict(arch='small', pruning=pruning), head=dict(in_channels=384))
