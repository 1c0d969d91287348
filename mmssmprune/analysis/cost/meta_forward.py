"""Whole models without data: a forward pass on the device 'meta', of shapes alone, wherever the model allows it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from mmssmprune.analysis.inputs import count_proposals, noise_image, prepare_inputs
from mmssmprune.engine.errors import to_sentence
from mmssmprune.models.flops import input_channels, on_meta

from .operations import NOT_RUN, Operation, record_operations


def record_model(model: nn.Module, shape: tuple[int, int]) -> tuple[list[Operation], tuple[int, int]]:
    """List the operations of one image through a whole model, which stays as it is.

    Only shapes are computed where the model allows it. Heads that decide by numbers (DINO, Mask2Former) run for real,
    on features of noise; where they do not run so either, backbone and neck are listed, and an operation `NOT_RUN`
    names what is left out. A two-stage detector is given ``test_cfg.rpn.max_per_img`` proposals, because RoI heads
    cost in proportion to them.

    Args:
        model: as mmdet, mmseg or mmpretrain build it from a config.
        shape: (H, W) of the image in pixels.

    Returns:
        The operations, and (H, W) as the model's own preprocessor pads the image.

    Raises:
        ValueError: the backbone does not take images of this size, or the preprocessor none of its channels.
    """
    inputs = prepare_inputs(model, noise_image(shape, channels=input_channels(model)), shape)
    padded = tuple(inputs['inputs'].shape[-2:])
    abstract = _Attempt(on_meta(model), inputs, 'tensor')
    if abstract.error is None:
        return abstract.operations, padded
    print_log('The heads decide by numbers, so they run for real on features of noise; this can take minutes.')
    make = partial(_on_meta_but_heads, model) if abstract.backbone_done else partial(copy.deepcopy, model)
    real = _Attempt(make(), inputs, 'tensor')
    if real.error is not None and real.backbone_done and hasattr(model, 'decode_head'):
        # PointRend has no mode 'tensor'. A detector's other mode costs as much as it happens to detect, so it won't do.
        predicted = _Attempt(make(), inputs, 'predict')
        real = predicted if predicted.error is None else real
    if real.error is None:
        return real.operations, padded
    if not real.backbone_done:
        raise real.error
    return real.without_heads(), padded


class _Attempt:
    """One forward pass of a copy: the operations up to its end or its error."""

    def __init__(self, ghost: nn.Module, inputs: dict[str, Any], mode: str) -> None:
        self.model, self.error = revert_sync_batchnorm(ghost.eval()), None
        inputs = copy.deepcopy(inputs)
        for sample in inputs['data_samples']:
            if 'gt_instances' in dir(type(sample)):  # Sparse R-CNN looks for them in mode 'tensor' too
                sample.gt_instances = InstanceData(bboxes=torch.empty(0, 4), labels=torch.empty(0, dtype=torch.long))
        image = inputs.pop('inputs').to(next(self.model.backbone.parameters()).device)
        if mode == 'predict':
            self.model.test_cfg['mode'] = 'whole'  # one pass over the image, as in mode 'tensor', no sliding windows
        self.ran: set[str] = set()
        for name, module in self.model.named_modules():
            module.register_forward_hook(partial(self._note, name))
        self.operations: list[Operation] = []
        unseen: list[Operation] = []
        with _abstract_regions(self.model, unseen), _samples_for_head(self.model, inputs['data_samples']):
            try:
                call = partial(self.model, image, **inputs, mode=mode)
                record_operations(self.model, call, self.operations)
            except Exception as error:  # of whatever kind: each head fails on abstract numbers in its own way
                self.error = error
        self.operations += unseen
        if self.error is None:
            self.operations += [_not_run(name, self.model, 'no part of it ran') for name in self._silent_heads()]

    @property
    def backbone_done(self) -> bool:
        return 'backbone' in self.ran

    def _note(self, name: str, module: nn.Module, args: Any, out: Any) -> None:
        if any(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)):  # else it was given no regions
            self.ran.add(name)

    def _silent_heads(self) -> list[str]:
        """Heads of which no layer ran: mode 'tensor' leaves out what works on detections alone (QueryInst's masks)."""
        modules = dict(self.model.named_modules())
        layers = {n for n, m in modules.items() if m._parameters and not isinstance(m, nn.Embedding)}
        silent = []
        for name in modules:
            own = {layer for layer in layers if f'{layer}.'.startswith(f'{name}.')}
            is_head = name.endswith('head') and 'auxiliary' not in name and not name.startswith('backbone')
            if is_head and own and not own & self.ran and not name.startswith(tuple(f'{s}.' for s in silent)):
                silent.append(name)
        return silent

    def without_heads(self) -> list[Operation]:
        """What backbone and neck did, and one operation that names the head which does not run."""
        heads = [name for name, _ in self.model.named_children() if name.endswith('head')]
        last = self.operations[-1].module.split('.')[0]
        names = [last] if last in heads else [name for name in heads if not name.startswith('auxiliary')]
        parts = [op for op in self.operations if op.is_inside('backbone') or op.is_inside('neck')]
        why = to_sentence(self.error) or type(self.error).__name__
        return parts + [_not_run(name, self.model, why) for name in names or ['']]


def _not_run(name: str, model: nn.Module, why: str) -> Operation:
    return Operation(name, NOT_RUN, overload=f'{name} ({type(model.get_submodule(name)).__name__}): {why}')


def _on_meta_but_heads(model: nn.Module) -> nn.Module:
    """A copy whose backbone computes shapes alone and gives noise of these shapes to real neck and heads.

    Outside the backbone it shares its parameters with ``model``.
    """
    memo: dict[int, Any] = {id(value): value for value in (*model.parameters(), *model.buffers())}
    memo[id(model.backbone)] = on_meta(model.backbone)
    ghost = copy.deepcopy(model, memo)
    device = next(model.parameters()).device

    def to_real(module: nn.Module, args: Any, out: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        with _disable_current_modes():  # this is no part of the model
            return tree_map_only(
                Tensor, lambda t: torch.randn(t.shape, generator=generator, dtype=t.dtype).to(device), out
            )

    ghost.backbone.register_forward_hook(to_real)
    return ghost


@contextmanager
def _samples_for_head(model: nn.Module, samples: list) -> Iterator[None]:
    """Give a decode head the samples that it asks for: in mode 'tensor' mmseg hands it features alone."""
    head = getattr(model, 'decode_head', None)
    if head is not None and 'batch_data_samples' in inspect.signature(head.forward).parameters:
        head.forward = partial(_with_samples, head.forward, samples)
    yield


def _with_samples(forward: Any, samples: list, feats: Any, batch_data_samples: list | None = None) -> Any:
    return forward(feats, samples if batch_data_samples is None else batch_data_samples)


@contextmanager
def _abstract_regions(model: nn.Module, unseen: list[Operation]) -> Iterator[None]:
    """Replace what decides by numbers: which regions are proposed, and from which level each is cut out."""
    number, patched = count_proposals(model), []
    if number is not None:
        model.rpn_head.predict = partial(_propose, model.rpn_head, number)
        patched.append((model.rpn_head, 'predict'))
    for name, module in model.named_modules():
        if hasattr(module, 'map_roi_levels'):
            module.forward = partial(_cut_out, module, name, unseen)
            patched.append((module, 'forward'))
    try:
        yield
    finally:
        for module, attribute in patched:
            delattr(module, attribute)


def _propose(rpn_head: nn.Module, number: int, feats: tuple[Tensor, ...], data_samples: list, **kwargs) -> list:
    rpn_head(feats)
    # The whole image, again and again, for a head that runs for real.
    boxes = [feats[0].new_tensor([[0, 0, *sample.img_shape[1::-1]]]) for sample in data_samples]
    return [InstanceData(bboxes=box.repeat(number, 1)) for box in boxes]


def _cut_out(
    extractor: nn.Module, name: str, unseen: list[Operation], feats: tuple[Tensor, ...], rois: Tensor, *args, **kwargs
) -> Tensor:
    unseen.append(Operation(name, 'mmcv.roi_align_forward', overload='mmcv.roi_align_forward'))
    return feats[0].new_zeros(len(rois), extractor.out_channels, *extractor.roi_layers[0].output_size)
