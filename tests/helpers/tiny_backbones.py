"""Small backbones for tests: every kind, a few layers, on any device in milliseconds."""

from __future__ import annotations

import torch
from torch import nn

from mmssmprune import models
from mmssmprune.models import PlainMamba, Vim, VMamba
from mmssmprune.models.backbones import PrunableBackbone
from mmssmprune.pruning.pruner import KINDS

PLAIN_ARCH = dict(embed_dims=24, num_layers=4, num_convs=1, layers_with_dwconv=(0,))
PLAIN_ARCH['mixer_cfg'] = dict(d_state=4, conv_size=3)
VIM_ARCH = dict(embed_dims=24, num_layers=4, mixer_cfg=dict(d_state=4))
# Of the layers of PRUNING the first is inside the first stage, and with the other one the third stage begins pruned.
VMAMBA_ARCH = dict(embed_dims=8, depths=(2, 1, 2, 1))
FOUR = (0, 1, 2, 3)
PRUNING = dict(layers=[0, 2], keep_ratio=0.6)
# The paper's choices: tokens are dropped by their scores, and nothing stands for them.
DROPPED = dict(reduction='prune', importance='clip', conv_fill='zero', scan_fill='zero')

MAKERS = {
    'plain_mamba': lambda **k: PlainMamba(PLAIN_ARCH, img_size=64, out_indices=FOUR, **k),
    # By way of the module, which has no adapter where there is no mmcv.
    'adapter': lambda **k: models.PlainMambaAdapter(
        PLAIN_ARCH, img_size=64, conv_inplane=8, norm_cfg=dict(type='BN'), **k
    ),
    'vim_seg': lambda **k: Vim(
        VIM_ARCH, img_size=64, out_indices=FOUR, if_cls_token=False, with_fpn=True, norm_cfg=dict(type='BN'), **k
    ),
    'vim_cls': lambda **k: Vim(VIM_ARCH, img_size=64, out_indices=FOUR, **k),
    'vim_double': lambda **k: Vim(VIM_ARCH, img_size=64, out_indices=FOUR, use_double_cls_token=True, **k),
    'vmamba': lambda **k: VMamba(VMAMBA_ARCH, **k),
    'vmamba_gated': lambda **k: VMamba(
        dict(VMAMBA_ARCH, gated=True, d_state=3, mlp_ratio=0, patch_embed_version='v1', downsample_version='v1'), **k
    ),
}
# One vector per image, for a classifier.
VECTOR_MAKERS = {
    'plain_mamba_avg': lambda **k: PlainMamba(PLAIN_ARCH, img_size=64, out_type='avg_featmap', **k),
    'vim_cls_token': lambda **k: Vim(VIM_ARCH, img_size=64, out_type='cls_token', **k),
    'vim_head_cls_token': lambda **k: Vim(VIM_ARCH, img_size=64, out_type='cls_token', use_middle_cls_token=False, **k),
    'vim_double_cls_token': lambda **k: Vim(
        VIM_ARCH, img_size=64, out_type='cls_token', use_double_cls_token=True, **k
    ),
    'vim_avg': lambda **k: Vim(VIM_ARCH, img_size=64, out_type='avg_featmap', **k),
    'vmamba_avg': lambda **k: VMamba(VMAMBA_ARCH, out_indices=-1, out_type='avg_featmap', **k),
    'vim_avg_no_cls': lambda **k: Vim(VIM_ARCH, img_size=64, out_type='avg_featmap', if_cls_token=False, **k),
}


WITH_CLASS_TOKEN = ('vim_cls', 'vim_double')


def suits(kind: str, key: str, name: str) -> bool:
    """Whether a kind of backbone can have this choice; it refuses the others with a sentence on what they need."""
    needs = KINDS[key].needs_of(name) if key in KINDS else ()
    lacks_class_token = 'class_token' in needs and kind not in WITH_CLASS_TOKEN
    return not lacks_class_token and ('sequence' not in needs or kind.startswith('vim_'))


def make(kind: str, **kwargs) -> PrunableBackbone:
    """Build a backbone whose parameters are large enough for every part to matter."""
    torch.manual_seed(0)
    model = (MAKERS | VECTOR_MAKERS)[kind](**kwargs)
    # What pruning adds comes last, so that dense and pruned models have the same weights.
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0].startswith('pruner.')):
        if parameter.dim() > 1 and 'A_' not in name:
            torch.nn.init.normal_(parameter, std=0.3)
        if name.endswith('gamma'):
            torch.nn.init.constant_(parameter, 0.5)
    return model.eval()


def layers_of(model: PrunableBackbone) -> list[nn.Module]:
    """The layers of all stages, in order."""
    return [layer for stage in model.stages for layer in stage.layers]
