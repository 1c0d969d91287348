"""What a FLOP is here, and counting those of a backbone without data: on the device 'meta', shapes have no numbers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import mmssmprune.ops  # noqa: F401  (registers the FLOP formulas of its operators)
from mmssmprune._stack import StackError

# Their formulas give the field's count; all others give two per multiply-add.
OPERATORS = ('multi_scan', 'kept_conv')
SCAN = 'mmssmprune.multi_scan'
CONVENTION = (
    'One multiply-add of a matrix product or convolution counts as 1 FLOP (the habit of this field; strictly a MAC); '
    'one direction of a selective scan over L tokens with D channels and N states counts 9*L*D*N, plus L*D for the '
    'skip D*u and L*D for a gate inside the scan. Normalisation, activations, softmax, pooling, resizing and sorting '
    'are left out.'
)


def make_flop_counter() -> FlopCounterMode:
    """Make a FLOP counter of torch with the formulas that it lacks; read its counts through `field_count`."""
    # FlopCounterMode knows attention under its CUDA names only.
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    return FlopCounterMode(display=False, custom_mapping=attention)


def _attention_flops(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def field_count(counts: dict[Any, int]) -> dict[str, int]:
    """FlopCounterMode's counts by `CONVENTION`: multiply-adds, and our scan as its formula gives it."""
    return {str(op): n if str(op) == SCAN else n // 2 for op, n in counts.items()}


def on_meta(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters and buffers have shapes but no numbers; it takes no memory."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to('meta'), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to('meta')
    return copy.deepcopy(module, memo).eval()


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a model, or a backbone alone, takes: those of its first convolution."""
    modules = getattr(model, 'backbone', model).modules()
    return next((module.in_channels for module in modules if isinstance(module, nn.Conv2d)), 3)


@torch.no_grad()
def count_on_meta(backbone: nn.Module, input_shape: tuple[int, int]) -> int:
    """FLOPs by `CONVENTION` of one image (H, W) through a backbone made by `on_meta`; nothing is computed.

    Raises:
        ValueError: the backbone does not take images of this size.
        StackError: this torch did not take the formula of one of our operators, which would count as nothing.
    """
    dtype = next(backbone.parameters()).dtype
    image = torch.empty(1, input_channels(backbone), *input_shape, dtype=dtype, device='meta')
    counter = make_flop_counter()
    missing = [name for name in OPERATORS if getattr(torch.ops.mmssmprune, name) not in counter.flop_registry]
    if missing:
        raise StackError(
            f'torch {torch.__version__} has no FLOP formula for {", ".join(missing)}, so FLOPs cannot be solved for: '
            'use a version that docs/versions.md names, or state keep_ratio'
        )
    with counter:
        backbone(image)
    return sum(field_count(counter.get_flop_counts().get('Global', {})).values())
