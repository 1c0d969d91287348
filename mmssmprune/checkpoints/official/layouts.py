"""Where the official files keep which weights, and which model a set of weights belongs to.

Sources: the checkpoints that ChenhongyiYang/PlainMamba (mmcls 0.x, mmdet 2.x, mmseg 0.x), hustvl/Vim (plain PyTorch,
mmseg 0.x, detectron2) and MzeroMiko/VMamba (plain PyTorch, mmdet 3.x, mmseg 1.x) read and write. The names of mmdet's
and mmseg's own modules have stayed the same since.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmssmprune._mmengine import MODELS
from mmssmprune.checkpoints.vmamba_names import current_weights, is_vmamba

TASKS = {  # the modules that tell
    'segmentation': ('decode_head.',),
    'detection': ('rpn_head.', 'roi_head.', 'bbox_head.', 'neck.'),
    'classification': ('head.',),
}
FAMILIES = {
    'plain_mamba': 'PlainMamba',
    'vim': 'Vim',
    'vmamba': 'VMamba',
}  # what names of architectures start with, and the class


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
# The norm of the classifier is that of the last of four stages.
VMAMBA_CLASSIFICATION = Layout(
    'VMamba classification',
    'model',
    (('classifier.norm.', 'backbone.outnorm3.'), ('classifier.head.', 'head.fc.'), ('', 'backbone.')),
)


@dataclass(frozen=True)
class Architecture:
    """A backbone as its weights show it: ``family`` is the class here, ``size`` its name there, None if it has none.

    Of VMamba, ``embed_dims`` are those of the first stage, and there are ``depths`` and the ``ssm_ratio`` of its scans.
    """

    family: str
    size: str | None
    embed_dims: int
    num_layers: int
    depths: tuple[int, ...] = ()
    ssm_ratio: float = 0.0

    def __str__(self) -> str:
        size = self.size or 'of no published size'
        layers = f'{self.num_layers} layers'
        if self.depths:
            layers = f'blocks {"-".join(map(str, self.depths))}, ssm_ratio {self.ssm_ratio:g}'
            if self.size in ('tiny', 'small', 'base'):  # which the authors have released in two forms each
                size = f'{size}, {self.size[0].upper()}[s{self.ssm_ratio:g}l{self.depths[2]}]'
        return f'{self.family} {size} ({self.embed_dims} channels, {layers})'

    @property
    def kind(self) -> str:
        """A value of `FAMILIES`; the adapter is of its backbone's."""
        return self.family.removesuffix('Adapter')

    @property
    def name(self) -> str | None:
        """As in `architectures`; the adapter has the name of its backbone."""
        start = next(start for start, family in FAMILIES.items() if family == self.kind)
        return _name(start, self.size) if self.size else None

    def is_as_large_as(self, other: Architecture) -> bool:
        """Whether the weights of one fit the other, modules for a task aside."""
        names = ('kind', 'embed_dims', 'num_layers', 'depths', 'ssm_ratio')
        return all(getattr(self, name) == getattr(other, name) for name in names)


def _name(start: str, size: str) -> str:
    """Without what a shell reads: vmamba_t_s2l5 of t[s2l5]."""
    return f'{start}_{re.sub(r"[^a-z0-9]+", "_", size.lower()).strip("_")}'


def architectures() -> list[str]:
    """The names of the published backbones, e.g. plain_mamba_l1; `mmssmprune.models` has to be imported."""
    return [_name(start, size) for start, family in FAMILIES.items() for size in MODELS.get(family).arch_zoo]


def find_task(keys: Mapping[str, Any]) -> str:
    """What a model with these keys (in our naming) does: a key of `TASKS`, or 'backbone'."""
    return next((task for task, parts in TASKS.items() if any(k.startswith(parts) for k in keys)), 'backbone')


def find_layout(keys: Mapping[str, Any]) -> Layout | None:
    """The layout of an official file with these keys, or None."""
    if any(key.startswith('backbone.net.layers.') for key in keys):
        return VIM_DETECTION
    if any(key.startswith('backbone.layers.') for key in keys):
        return OPENMMLAB
    if is_vmamba(keys):
        return VMAMBA_CLASSIFICATION
    return VIM_CLASSIFICATION if any(key.startswith('layers.0.mixer.') for key in keys) else None


def is_official_classifier(checkpoint: Any) -> bool:
    """Whether a loaded file is a classifier of Vim or VMamba, whose weights go by other names than ours."""
    weights = checkpoint.get('model') if isinstance(checkpoint, Mapping) and 'state_dict' not in checkpoint else None
    return isinstance(weights, Mapping) and find_layout(weights) in (VIM_CLASSIFICATION, VMAMBA_CLASSIFICATION)


def official_layout(architecture: Architecture, task: str, keys: Mapping[str, Any]) -> Layout:
    """The layout in which the authors would have written a model of this kind."""
    if architecture.family == 'VMamba':
        return VMAMBA_CLASSIFICATION if task == 'classification' else OPENMMLAB
    if architecture.family != 'Vim' or task == 'segmentation' or any(key.startswith('backbone.fpn') for key in keys):
        return OPENMMLAB
    return VIM_DETECTION if task == 'detection' else VIM_CLASSIFICATION


def recognise_architecture(backbone: Mapping[str, Tensor]) -> Architecture | None:
    """Name the backbone that has these weights (keys without prefix), or None if it is none of ours."""
    if is_vmamba(backbone):
        return _recognise_vmamba(backbone)
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


def _recognise_vmamba(backbone: Mapping[str, Tensor]) -> Architecture | None:
    """The same for VMamba, whatever the age of its names."""
    backbone = dict(current_weights(backbone).values())
    blocks = {tuple(int(n) for n in key.split('.')[1:4:2]) for key in backbone if re.match(r'layers\.\d+\.blocks', key)}
    count = max(stage for stage, _ in blocks) + 1
    depths = tuple(sum(stage == i for stage, _ in blocks) for i in range(count))
    norm, inner, states = (
        backbone.get(f'layers.0.blocks.0.{name}') for name in ('norm.weight', 'op.out_norm.weight', 'op.A_logs')
    )
    if norm is None or inner is None or states is None or states.dim() != 2:
        return None
    dims, ratio = len(norm), len(inner) / len(norm)
    found = (dims, depths, ratio, states.shape[1])
    zoo = MODELS.get('VMamba').arch_zoo
    names = ('embed_dims', 'depths', 'ssm_ratio', 'd_state')
    size = next((size for size, arch in zoo.items() if tuple(arch[name] for name in names) == found), None)
    return Architecture('VMamba', size, dims, sum(depths), depths, ratio)


def published_model(architecture: Architecture, backbone: Mapping[str, Tensor]) -> nn.Module:
    """The published backbone that should fit these weights, without memory (device 'meta'), as ``model.backbone``.

    Read off the weights: the size of the position embedding's grid, class tokens, outputs and pyramid. Everything else
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
    if architecture.family == 'VMamba':
        norms = [int(key[len('outnorm') : -len('.weight')]) for key in backbone if re.match(r'outnorm\d+\.weight', key)]
        kwargs.update(out_indices=sorted(norms) or range(len(architecture.depths)))
    else:
        kwargs.update(img_size=16 * max(math.isqrt(rows), 1))
    family = MODELS.get(architecture.family)
    with torch.device('meta'):
        built = family(architecture.size, **kwargs)
    return nn.ModuleDict({'backbone': built})
