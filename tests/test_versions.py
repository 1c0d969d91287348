"""What depends on the version of torch or Triton: FLOP formulas that are not found, kernels that do not compile."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_backbones import make
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mmssmprune._stack import StackError
from mmssmprune.analysis.cost.flops import count_flops
from mmssmprune.models.flops import OPERATORS, count_on_meta, on_meta
from mmssmprune.ops import flop_formulas, kept_conv
from mmssmprune.ops.load_triton import import_problem

KERNELS = ('mmssmprune.ops.scan.triton_kernels', 'mmssmprune.ops.kept_conv.triton_kernels')


def test_formulas_are_where_the_counter_of_torch_looks():
    ours = torch.ops.mmssmprune
    packets = [getattr(ours, name + end) for name in OPERATORS for end in ('', '_backward')]
    assert all(packet in FlopCounterMode(display=False).flop_registry for packet in packets)


def test_a_formula_filed_under_the_overload_is_found(monkeypatch):
    """As torch 2.4 files it; its counter then counted scans and convolutions as nothing."""
    packet = torch.ops.mmssmprune.kept_conv
    formula = flop_registry[packet]
    monkeypatch.delitem(flop_registry, packet)
    monkeypatch.setitem(flop_registry, packet.default, None)  # so that it goes again
    file_away = lambda packet: lambda f: flop_registry.__setitem__(packet.default, f) or f  # noqa: E731
    monkeypatch.setattr(flop_formulas, 'register_flop_formula', file_away)
    try:
        flop_formulas.flops_of(packet)(formula)
        with FlopCounterMode(display=False) as counter:
            kept_conv(torch.ones(1, 4, 3), torch.ones(3, 1, 2), hw_shape=(1, 4), origin=(0, 0))
        assert counter.get_total_flops() == 2 * 4 * 3 * 2
    finally:
        flop_registry[packet] = formula


@pytest.mark.parametrize('name', ['multi_scan', 'kept_conv'])
def test_an_operator_without_formula_is_listed_and_no_target_is_solved(name, monkeypatch):
    model = make('plain_mamba')
    assert count_flops(model, torch.rand(1, 3, 64, 64)).unsupported == {}
    monkeypatch.delitem(flop_registry, getattr(torch.ops.mmssmprune, name))
    listed = count_flops(model, torch.rand(1, 3, 64, 64)).unsupported
    assert listed == {f'mmssmprune.{name}.default': len(model.layers)}
    with pytest.raises(
        StackError, match=f'has no FLOP formula for {name}, so FLOPs cannot be solved for: .*versions.md'
    ):
        count_on_meta(on_meta(model), (64, 64))
    with pytest.raises(StackError, match='cannot be solved for'):
        make('plain_mamba', pruning=dict(layers=[0, 2], flops_reduction=0.2, input_shape=(64, 64)))


@pytest.mark.parametrize('kernels', KERNELS)
def test_triton_that_cannot_compile_the_kernels_is_refused_by_version(kernels, monkeypatch):
    for version in ('2.3.1', '3.0.0', '3.3.1'):
        monkeypatch.setitem(sys.modules, 'triton', SimpleNamespace(__version__=version))
        assert import_problem(kernels) == f'it needs Triton 3.4 or later, and {version} is installed'
    monkeypatch.setitem(sys.modules, 'triton', None)
    assert import_problem(kernels).startswith('Triton 3.4 or later does not import: ')
