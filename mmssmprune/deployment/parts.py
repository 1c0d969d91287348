"""What of a model is exported: one module from normalised images to a flat tuple of tensors, with names for these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmssmprune.models.backbones.base import PrunableBackbone

PARTS = ('backbone', 'model')
# Choices whose result is another one in every run, so that a file cannot be compared with its model.
_NOT_EXPORTED = {('importance', 'random'): 'it draws other tokens in every run'}
# Choices whose operations are others for other numbers of tokens.
_ROUNDS = 'how many rounds it takes, and of which pairs, depends on the number of tokens'
_HALVINGS = 'how often a grid can be halved depends on its size'
_NOT_OPEN = {('reduction', name): _ROUNDS for name in ('merge', 'merge_features')}
_NOT_OPEN |= dict.fromkeys((('reduction', 'merge_neighbours'), ('importance', 'grid')), _HALVINGS)


class ExportedPart(nn.Module):
    """A backbone, or a whole model up to the raw outputs of its heads.

    Args:
        model: an mmdet detector, mmseg segmentor or mmpretrain classifier, or a backbone alone.
        part: one of `PARTS`. ``'model'`` means a segmentor's or a classifier's logits, and of a detector what its dense
            head (of two stages: its region proposal network) says before boxes are decoded, after the neck's maps
            where a second stage would read them.

    Raises:
        ValueError: an unknown part, a model that has no such part, or a choice of its pruning that cannot be exported.
    """

    def __init__(self, model: nn.Module, part: str = 'backbone'):
        super().__init__()
        if part not in PARTS:
            raise ValueError(f'part is {part!r}; the names are {", ".join(PARTS)}')
        backbone = getattr(model, 'backbone', model)
        if not isinstance(backbone, PrunableBackbone):
            raise ValueError(f'{type(backbone).__name__} is no backbone of this package, and no other is exported')
        self.whole = part == 'model'
        if self.whole and backbone is model:
            raise ValueError("this is a backbone alone: give part='backbone'")
        check_choices(backbone)
        self.module = (model if self.whole else backbone).eval()

    @property
    def backbone(self) -> PrunableBackbone:
        """That of the model."""
        return self.module.backbone if self.whole else self.module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W), as the data preprocessor leaves them, to the outputs that `named_outputs` names."""
        return tuple(tensor for _, tensor in self.named_outputs(images))

    def named_outputs(self, images: Tensor) -> list[tuple[str, Tensor]]:
        """Every output with its name, in order."""
        return list(_flat(self._outputs(images)))

    def _outputs(self, images: Tensor) -> dict[str, Any]:
        if not self.whole:
            return {'feature': self.module(images)}
        model = self.module
        if hasattr(model, 'roi_head'):
            maps = model.extract_feat(images)
            return {'feature': maps, **_named(model.rpn_head(maps), ('rpn_cls_score', 'rpn_bbox_pred'))}
        if hasattr(model, 'bbox_head'):
            return _named(model.bbox_head(model.extract_feat(images)), ('cls_score', 'bbox_pred'))
        if not (hasattr(model, 'decode_head') or hasattr(model, 'head')):
            raise ValueError(f"{type(model).__name__} has no head that can be exported; export part='backbone'")
        return {'logits': model(images, mode='tensor')}


def check_choices(backbone: PrunableBackbone, open_sizes: bool = False) -> None:
    """Raise ValueError where the `pruning` dict names a choice that cannot be exported, or not with ``open_sizes``."""
    if backbone.pruning is None:
        return
    names = backbone.pruner.names
    for (kind, name), reason in _NOT_EXPORTED.items():
        if names[kind] == name:
            raise ValueError(f'pruning.{kind} {name!r} cannot be exported, since {reason}; choose another {kind}')
    for (kind, name), reason in _NOT_OPEN.items():
        if open_sizes and names[kind] == name:
            raise ValueError(
                f'pruning.{kind} {name!r} cannot be exported with open image sizes, since {reason}; '
                'leave the batch size open only, and export a file for each image size'
            )


def _named(outputs: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """A head's outputs by name; those beyond the known ones by number."""
    return {names[i] if i < len(names) else f'head_{i}': output for i, output in enumerate(outputs)}


def _flat(outputs: Any, name: str = '') -> Iterator[tuple[str, Tensor]]:
    if isinstance(outputs, Tensor):
        yield name, outputs
    elif isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from _flat(value, '_'.join(filter(None, (name, key))))
    elif len(outputs) == 1 and name == 'logits':
        yield from _flat(outputs[0], name)
    else:
        for i, value in enumerate(outputs):
            yield from _flat(value, f'{name}_{i}')
