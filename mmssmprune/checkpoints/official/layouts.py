"""Where the official files keep which weights, and which model a set of weights belongs to.

Sources: the checkpoints that ChenhongyiYang/PlainMamba (mmcls 0.x, mmdet 2.x, mmseg 0.x) and hustvl/Vim (plain PyTorch,
mmseg 0.x, detectron2) read and write. The names of mmdet's and mmseg's own modules have stayed the same since.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

TASKS = {  # the modules that tell
    'segmentation': ('decode_head.',),
    'detection': ('rpn_head.', 'roi_head.', 'bbox_head.', 'neck.'),
    'classification': ('head.',),
}
FAMILIES = {'plain_mamba': 'PlainMamba', 'vim': 'Vim'}  # what names of architectures start with, and the class


@dataclass(frozen=True)
class Layout:
    """How an official file names what this package calls ``backbone.*``, ``neck.*``, ``head.fc.*``.

    Attributes:
        name: for sentences.
        container: the entry of the file that holds the weights.
        renames: (official prefix, our prefix); the first that fits counts. None: the names are the same.
    """

    name: str
    container: str
    renames: tuple[tuple[str, str], ...] | None = None

    def rename(self, key: str, *, back: bool = False) -> str | None:
        """Our name of an official key, or the reverse; None where the other side has nothing of the kind."""
        if self.renames is None:
            return key
        for official, ours in self.renames:
            old, new = (ours, official) if back else (official, ours)
            if key.startswith(old):
                return new + key[len(old) :]
        return None


OPENMMLAB = Layout('OpenMMLab', 'state_dict')
VIM_CLASSIFICATION = Layout('Vim classification', 'model', (('head.', 'head.fc.'), ('', 'backbone.')))
VIM_DETECTION = Layout(
    'Vim detection (detectron2)', 'model', (('backbone.net.', 'backbone.'), ('backbone.simfp_', 'neck.simfp_'))
)


@dataclass(frozen=True)
class Architecture:
    """A backbone as its weights show it: ``family`` is the class here, ``size`` its name there, None if it has none."""

    family: str
    size: str | None
    embed_dims: int
    num_layers: int

    def __str__(self) -> str:
        size = self.size or 'of no published size'
        return f'{self.family} {size} ({self.embed_dims} channels, {self.num_layers} layers)'

    @property
    def name(self) -> str | None:
        """As in `architectures`; the adapter has the name of its backbone."""
        prefix = 'vim' if self.family == 'Vim' else 'plain_mamba'
        return f'{prefix}_{self.size.lower()}' if self.size else None


def architectures() -> list[str]:
    """The names of the published backbones, e.g. plain_mamba_l1; `mmssmprune.models` has to be imported."""
    return [f'{start}_{size}' for start, family in FAMILIES.items() for size in MODELS.get(family).arch_zoo]


def find_task(keys: Mapping[str, Any]) -> str:
    """What a model with these keys (in our naming) does: a key of `TASKS`, or 'backbone'."""
    return next((task for task, parts in TASKS.items() if any(k.startswith(parts) for k in keys)), 'backbone')


def find_layout(keys: Mapping[str, Any]) -> Layout | None:
    """The layout of an official file with these keys, or None."""
    if any(key.startswith('backbone.net.layers.') for key in keys):
        return VIM_DETECTION
    if any(key.startswith('backbone.layers.') for key in keys):
        return OPENMMLAB
    return VIM_CLASSIFICATION if any(key.startswith('layers.0.mixer.') for key in keys) else None


def official_layout(architecture: Architecture, task: str, keys: Mapping[str, Any]) -> Layout:
    """The layout in which the authors would have written a model of this kind."""
    if architecture.family != 'Vim' or task == 'segmentation' or any(key.startswith('backbone.fpn') for key in keys):
        return OPENMMLAB
    return VIM_DETECTION if task == 'detection' else VIM_CLASSIFICATION


def recognise_architecture(backbone: Mapping[str, Tensor]) -> Architecture | None:
    """Name the backbone that has these weights (keys without prefix), or None if it is none of ours."""
    layers = {int(key.split('.')[1]) for key in backbone if key.startswith('layers.')}
    norm = backbone.get('layers.0.norm.weight')
    if norm is None or not layers:
        return None
    dims, depth = len(norm), max(layers) + 1
    if 'layers.0.mamba.direction_Bs' in backbone:
        with_adapter = any(key.startswith('interactions.') for key in backbone)
        family = 'PlainMambaAdapter' if with_adapter else 'PlainMamba'
    elif 'layers.0.mixer.A_b_log' in backbone:
        family = 'Vim'
    else:
        return None
    sizes = {(zoo['embed_dims'], zoo['num_layers']): name for name, zoo in MODELS.get(family).arch_zoo.items()}
    size = sizes.get((dims, depth))
    return Architecture(family, size if family == 'Vim' or size is None else size.upper(), dims, depth)


def published_model(architecture: Architecture, backbone: Mapping[str, Tensor]) -> nn.Module:
    """The published backbone that should fit these weights, without memory (device 'meta'), as ``model.backbone``.

    Read off the weights: the size of the position embedding's grid, class tokens, taps and pyramid. Everything else
    is as published, so that a difference shows.
    """
    kwargs: dict[str, Any] = {}
    rows = backbone['pos_embed'].shape[1] if 'pos_embed' in backbone else 0
    if architecture.family == 'Vim':
        double = 'cls_token_head' in backbone
        single = 'cls_token' in backbone
        rows -= 2 * double + single
        kwargs.update(if_cls_token=single or double, use_double_cls_token=double)
        if 'fpn1.0.weight' in backbone:
            kwargs.update(with_fpn=True, out_indices=range(4))
    elif architecture.family == 'PlainMamba':
        norms = {int(key.split('.')[0][len('norm_layer') :]) for key in backbone if key.startswith('norm_layer')}
        kwargs.update(out_indices=sorted(norms | {architecture.num_layers - 1}), final_norm='ln1.weight' in backbone)
    family = MODELS.get(architecture.family)
    with torch.device('meta'):
        built = family(architecture.size, img_size=16 * max(math.isqrt(rows), 1), **kwargs)
    return nn.ModuleDict({'backbone': built})
