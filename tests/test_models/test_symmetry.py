"""Mirror the tokens, the weights and the walk: kept set and maps must be mirrored, or positions got mixed up."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_backbones import DROPPED, make
from torch import Tensor, nn

from mmssmprune.models.backbones import plain_mamba
from mmssmprune.pruning import ScanOrder, snake_scan

PRUNING = DROPPED | dict(layers=[0, 2], keep_ratio=0.55)  # chessboards have no symmetry where sides are even
HW = (3, 5)
BACKWARD = {'A_log': 'A_b_log', 'D': 'D_b', 'conv1d.weight': 'conv1d_b.weight', 'conv1d.bias': 'conv1d_b.bias'}
BACKWARD |= {'x_proj.weight': 'x_proj_b.weight', 'dt_proj.weight': 'dt_proj_b.weight', 'dt_proj.bias': 'dt_proj_b.bias'}
TOKENS = torch.randn(2, *HW, 24, dtype=torch.float64)


def kept_cells(model: nn.Module, tokens: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Start the backbone from tokens (B, h, w, C): the kept cells (B, h, w) after each layer, and the maps."""
    masks, prune = [], model.pruner.prune

    def spy(*args):
        streams, state = prune(*args)
        masks.append(torch.zeros(2, state.length, dtype=torch.bool).scatter(1, state.positions.expand(2, -1), True))
        return streams, state

    model.pruner.prune = spy
    model.embed = lambda _: (tokens.flatten(1, 2), HW)
    with torch.no_grad():
        maps = model(torch.empty(2, 3, 1, 1, dtype=torch.float64))
    return [mask.unflatten(1, HW) for mask in masks], maps


def assert_mirrored(one: tuple, other: tuple, dims: list[int]) -> None:
    """Two results of `kept_cells`; ``dims`` are the axes of (B, h, w) that are flipped."""
    (masks, maps), (mirrored_masks, mirrored_maps) = one, other
    assert [int(mask[0].sum()) for mask in masks] == [9, 9, 5, 5]
    assert all(torch.equal(a.flip(dims), b) for a, b in zip(masks, mirrored_masks, strict=True))
    for a, b in zip(maps, mirrored_maps, strict=True):
        assert torch.allclose(a.flip([d + 1 for d in dims]), b, rtol=1e-9, atol=1e-9)


def mirrored_scan(height: int, width: int, device: str = 'cpu') -> ScanOrder:
    """The snakes as a mirror shows them; each move keeps the name of the move it mirrors."""
    path = snake_scan(height, width)
    order = path.order // width * width + (width - 1 - path.order % width)
    return ScanOrder.of(order, path.move)


@pytest.mark.parametrize('conv_fill', ['zero', 'leader'])
@pytest.mark.parametrize('alignment', ['none', 'carry', 'bias'])
def test_plain_mamba_left_right(alignment, conv_fill, monkeypatch):
    model = make('plain_mamba', pruning=dict(PRUNING, alignment=alignment, conv_fill=conv_fill)).double()
    for layer in model.layers:
        layer.mamba.param_order = 'scan'  # the official pairing follows the raster, which a mirror reverses
    mirrored = copy.deepcopy(model)
    for module in mirrored.layers.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.flip(3)
    seen = kept_cells(model, TOKENS)
    monkeypatch.setattr(plain_mamba, 'snake_scan', mirrored_scan)
    assert_mirrored(seen, kept_cells(mirrored, TOKENS.flip(2)), [2])


@pytest.mark.parametrize('conv_fill', ['zero', 'leader'])
@pytest.mark.parametrize('alignment', ['none', 'carry', 'bias'])
def test_vim_upside_down(alignment, conv_fill):
    """Vim's walks are the raster and its reverse, so a half turn swaps its two branches."""
    model = make('vim_seg', pruning=dict(PRUNING, alignment=alignment, conv_fill=conv_fill)).double()
    model.with_fpn = False
    turned = copy.deepcopy(model)
    names = BACKWARD | {backward: forward for forward, backward in BACKWARD.items()}
    for layer in turned.layers:
        weights = {name: value.clone() for name, value in layer.mixer.state_dict().items()}
        layer.mixer.load_state_dict({names.get(name, name): value for name, value in weights.items()})
    assert_mirrored(kept_cells(model, TOKENS), kept_cells(turned, TOKENS.flip([1, 2])), [1, 2])
