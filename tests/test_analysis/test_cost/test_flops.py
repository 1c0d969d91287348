"""Counts of small modules against counts by hand."""

from __future__ import annotations

import pytest
import torch
from mmcv.ops import RoIAlign
from torch import nn
from torch.nn import functional as F

from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.analysis.cost.operations import record_operations
from mmssmprune.models import PlainMamba, PlainMambaAdapter, Vim, set_keep_ratio
from mmssmprune.models.flops import count_on_meta, on_meta
from mmssmprune.ops import selective_scan


class Wrapper(nn.Module):
    """Any function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def count(function, *args) -> int:
    return count_flops(Wrapper(function), lambda: function(*args)).total


BY_HAND = {
    # out pixels * out channels * in channels / groups * kernel area; the bias is free
    'conv': (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 10, 12), 2 * 120 * 8 * 3 * 9),
    'strided conv': (nn.Conv2d(3, 8, 4, stride=4, bias=False), (1, 3, 16, 8), 4 * 2 * 8 * 3 * 16),
    'depthwise conv': (nn.Conv2d(6, 6, 7, padding=3, groups=6), (1, 6, 5, 4), 20 * 6 * 49),
    'causal depthwise conv1d': (nn.Conv1d(6, 6, 4, padding=3, groups=6), (1, 6, 17), 20 * 6 * 4),
    # a transposed convolution multiplies each of its input pixels
    'transposed conv': (nn.ConvTranspose2d(5, 7, 2, stride=2), (1, 5, 6, 4), 24 * 5 * 7 * 4),
    'linear': (nn.Linear(16, 24), (2, 9, 16), 2 * 9 * 16 * 24),
    'linear without bias': (nn.Linear(16, 24, bias=False), (2, 9, 16), 2 * 9 * 16 * 24),
    'left out by habit': (nn.Sequential(nn.LayerNorm(8), nn.GELU(), nn.Softmax(-1), nn.AvgPool2d(2)), (1, 4, 6, 8), 0),
}


@pytest.mark.parametrize('case', BY_HAND.values(), ids=BY_HAND.keys())
def test_modules_by_hand(case):
    module, shape, expected = case
    counted = count_flops(module.eval(), torch.rand(shape))
    assert counted.total == expected
    assert counted.unsupported == {}


def test_matrix_products_by_hand():
    assert count(torch.matmul, torch.rand(3, 4, 5), torch.rand(3, 5, 6)) == 3 * 4 * 5 * 6
    assert count(lambda a, b: torch.einsum('bld,bdn->bln', a, b), torch.rand(2, 4, 5), torch.rand(2, 5, 3)) == 120


def test_attention_by_hand():
    q, k, v = torch.rand(2, 3, 7, 8), torch.rand(2, 3, 5, 8), torch.rand(2, 3, 5, 8)
    assert count(F.scaled_dot_product_attention, q, k, v) == 2 * (2 * 3 * 7 * 5 * 8)


def scan_operands(batch: int, dim: int, state: int, length: int) -> list[torch.Tensor]:
    u, delta = torch.rand(batch, dim, length), torch.rand(batch, dim, length)
    A = -torch.rand(dim, state)
    return [u, delta, A, torch.rand(batch, state, length), torch.rand(batch, state, length)]


@pytest.mark.parametrize('backend', ['naive', 'torch'])
def test_scan_by_hand_and_not_halved(backend: str):
    batch, dim, state, length = 2, 6, 4, 11
    operands = scan_operands(batch, dim, state, length)
    D, z = torch.rand(dim), torch.rand(batch, dim, length)
    recurrence, elementwise = 9 * batch * length * dim * state, batch * length * dim
    assert count(lambda: selective_scan(*operands, backend=backend)) == recurrence
    assert count(lambda: selective_scan(*operands, D, backend=backend)) == recurrence + elementwise
    assert count(lambda: selective_scan(*operands, D, z, backend=backend)) == recurrence + 2 * elementwise


def test_counts_on_meta_equal_real_ones():
    """What a plan is solved with and what a comparison prints must be one number."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 5, groups=4, bias=False))
    ghost = on_meta(model)
    assert count_on_meta(ghost, (10, 12)) == count_flops(model.eval(), torch.rand(1, 3, 10, 12)).total
    assert count_on_meta(ghost, (10, 12)) == 120 * 8 * 3 * 9 + 6 * 8 * 8 * 2 * 25


def test_total_is_matrix_products_plus_scan():
    linear, operands = nn.Linear(6, 10), scan_operands(1, 6, 4, 11)

    def forward():
        y = selective_scan(*operands)
        return linear(y.transpose(1, 2))

    counted = count_flops(linear, forward)
    assert counted.total == 9 * 11 * 6 * 4 + 11 * 6 * 10
    assert sum(counted.per_op.values()) == counted.total
    assert counted.per_op['mmssmprune.multi_scan'] == 9 * 11 * 6 * 4


def test_operators_without_formula_are_listed():
    grid = torch.rand(1, 4, 4, 2)
    counted = count_flops(Wrapper(F.grid_sample), lambda: F.grid_sample(torch.rand(1, 3, 8, 8), grid).cumsum(0))
    assert list(counted.unsupported) == ['aten.grid_sampler_2d.default']
    assert counted.uncounted['aten.grid_sampler_2d.default'] == {'calls': 1, 'elements': 3 * 16}
    assert 'aten.cumsum.default' in counted.uncounted


def test_compiled_mmcv_operators_are_listed():
    from mmcv import _ext

    before = _ext.roi_align_forward
    pool, rois = RoIAlign(4), torch.tensor([[0.0, 0.0, 0.0, 5.0, 5.0]])
    counted = count_flops(pool, lambda: pool(torch.rand(1, 3, 8, 8), rois))
    assert counted.unsupported == {'mmcv.roi_align_forward': 1}
    with pytest.raises(ZeroDivisionError):
        count_flops(pool, lambda: 1 / 0)
    assert _ext.roi_align_forward is before


def test_parts_of_a_model():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
            self.neck = nn.Conv2d(4, 5, 1)
            self.head = nn.Conv2d(5, 6, 1)

        def forward(self, x):
            # mmseg and mmdet call some heads by .forward, past the module hooks
            return self.head.forward(self.neck(self.backbone(x)))

    counted = count_flops(Model().eval(), torch.rand(1, 3, 2, 5))
    assert (counted.backbone, counted.neck, counted.heads) == (10 * (12 + 16), 10 * 20, 10 * 30)
    assert counted.total == 10 * (12 + 16 + 20 + 30)
    assert counted.per_module['backbone.1'] == 160


def test_official_counts_of_plain_mamba_l1():
    """PlainMamba-L1 at 224 x 224 as its official get_flops.py counts it, which adds the biases of convolutions."""
    model = PlainMamba(arch='L1', img_size=224).eval()
    image = torch.zeros(1, 3, 224, 224)
    counted = count_flops(model, image)
    biases = sum(op.elements for op in record_operations(model, image) if op.has_bias)
    assert counted.per_op['aten.addmm'] + counted.per_op['aten.mm'] == 1_141_604_352
    assert counted.per_op['mmssmprune.multi_scan'] == 1_047_674_880
    convolutions = counted.per_op['aten.convolution'] + counted.per_op['mmssmprune.kept_conv']
    assert convolutions + biases == 825_269_760
    assert counted.unsupported == {}


MIXER = {'d_state': 4, 'expand': 1, 'conv_size': 3}
BACKBONES = {
    'PlainMamba': lambda pruning: PlainMamba(
        arch={'embed_dims': 32, 'num_layers': 6, 'num_convs': 1, 'layers_with_dwconv': [], 'mixer_cfg': MIXER},
        img_size=64,
        out_indices=(2, 5),
        pruning=pruning,
    ),
    'Vim': lambda pruning: Vim(
        arch={'embed_dims': 32, 'num_layers': 6}, img_size=64, out_indices=(5,), pruning=pruning
    ),
    'PlainMambaAdapter': lambda pruning: PlainMambaAdapter(arch='L1', num_layers=8, img_size=64, pruning=pruning),
}


@pytest.mark.parametrize('family', BACKBONES)
def test_flops_and_tokens_fall_with_the_keep_ratio(family: str):
    model = BACKBONES[family]({'layers': [1, 3], 'keep_ratio': 0.7}).eval()
    dense = count_flops(BACKBONES[family](None).eval(), torch.zeros(1, 3, 64, 64))
    counts, tokens = [], []
    for keep_ratio in (1.0, 0.8, 0.5, 0.3):
        set_keep_ratio(model, keep_ratio)
        counts.append(count_flops(model, torch.zeros(1, 3, 64, 64)))
        tokens.append(sum(model.tokens_per_layer((64, 64))))
    totals = [counted.total for counted in counts]
    assert totals[0] == dense.total
    assert totals == sorted(set(totals), reverse=True)
    assert tokens == sorted(set(tokens), reverse=True)
    scans = [counted.per_op['mmssmprune.multi_scan'] for counted in counts]
    assert [scan / scans[0] for scan in scans] == pytest.approx([n / tokens[0] for n in tokens])
