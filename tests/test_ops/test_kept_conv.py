"""The convolution over kept tokens on a CPU: every backend against the whole grid, and what the operator promises."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from kept_conv_operands import (
    CASES,
    NAMES,
    NO_CPP,
    assert_equals_whole_grid,
    conv_operands,
    draw_cells,
    on_whole_grid,
    rounded,
)
from scan_operands import assert_same, grads_of
from torch.utils.flop_counter import FlopCounterMode

from mmssmprune.ops import kept_conv
from mmssmprune.ops.kept_conv import CONV_BACKENDS, cpp, naive
from mmssmprune.ops.kept_conv.inputs import ConvInputs

BACKENDS = ['naive', 'torch', pytest.param('cpp', marks=NO_CPP)]


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_equals_the_whole_grid(backend, case, poisoned_memory):
    leaves, options = conv_operands(case)
    assert_equals_whole_grid(leaves, options, backend, 1e-12)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_operands_are_summed_in_float32(dtype, backend, poisoned_memory):
    leaves, options = conv_operands('PlainMamba')
    rtol = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert_equals_whole_grid(leaves, options, backend, rtol, dtype)


@pytest.mark.parametrize('backend', BACKENDS)
def test_tokens_may_stand_in_any_order(backend):
    leaves, options = conv_operands('wide, at other cells', shuffled=True)
    assert (options['cells'].diff(dim=1) < 0).any()
    assert_equals_whole_grid(leaves, options, backend, 1e-12)


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_causal_conv1d_and_its_mirror(backend):
    """As Vim has them: nn.Conv1d's own weight, padding on both sides, the end cut off; backward with x flipped."""
    x, weight, bias = torch.randn(2, 11, 6).double(), torch.randn(6, 1, 4).double(), torch.randn(6).double()
    cells, slot = draw_cells(2, 11, 11)
    options = dict(cells=cells, slot=slot, hw_shape=(1, 11), backend=backend)
    forward, backward = (
        F.conv1d(t.transpose(1, 2), weight, bias, padding=3, groups=6)[:, :, :11].transpose(1, 2)
        for t in (x, x.flip(1))
    )
    torch.testing.assert_close(kept_conv(x, weight, bias, origin=(0, -3), **options), forward)
    torch.testing.assert_close(kept_conv(x, weight.flip(-1), bias, origin=(0, 0), **options), backward.flip(1))


@pytest.mark.parametrize('case', ['3x3', 'wide, at other cells', 'all taps beyond the token'])
@pytest.mark.parametrize('backend', BACKENDS)
def test_gradients_by_finite_differences(backend, case):
    leaves, options = conv_operands(case, batch=2)
    leaves = [leaves['x'][..., :2], leaves['weight'][:2], leaves['bias'][:2]]
    leaves = tuple(t.detach().requires_grad_() for t in leaves)
    assert torch.autograd.gradcheck(lambda *t: kept_conv(*t, **options, backend=backend), leaves)
    assert torch.autograd.gradcheck(lambda *t: kept_conv(*t, **options, backend=backend), leaves[:2])


def test_naive_backward_is_what_autograd_makes_of_its_forward():
    leaves, options = conv_operands('wide, at other cells')
    tokens = (options[name] for name in ('cells', 'slot', 'out_cells', 'out_slot'))
    p = ConvInputs(*leaves.values(), *tokens, *options['hw_shape'], *options['origin'])
    out = naive.forward(p)
    weight = torch.randn_like(out)
    assert_same(dict(zip(NAMES, naive.backward(p, weight), strict=True)), grads_of(out, leaves, weight))


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('view', ['every second channel', 'channels first', 'part of a projection', 'one for all'])
def test_reads_any_layout(view, backend, poisoned_memory):
    leaves, options = conv_operands('PlainMamba')
    leaf = {
        'every second channel': torch.randn(3, 23, 100),
        'channels first': torch.randn(3, 50, 23),
        'part of a projection': torch.randn(3, 23, 120),
        'one for all': torch.randn(1, 23, 50),
    }[view]
    leaves['x'] = leaf.double().requires_grad_()
    x = {
        'every second channel': lambda t: t[..., ::2],
        'channels first': lambda t: t.transpose(1, 2),
        'part of a projection': lambda t: t[..., 10:60],
        'one for all': lambda t: t.expand(3, -1, -1),
    }[view](leaves['x'])
    # A gradient whose channels are not adjacent, and one that is a single number everywhere.
    for weight in (torch.randn(3, 50, 23).double().transpose(1, 2), torch.tensor(2.0).double()):
        mine = kept_conv(**{**leaves, 'x': x}, **options, backend=backend)
        whole = on_whole_grid(**{**leaves, 'x': x}, **options)
        given, wanted = (
            torch.autograd.grad(out, list(leaves.values()), weight.expand_as(out)) for out in (mine, whole)
        )
        assert_same(dict(zip(NAMES, given, strict=True)), dict(zip(NAMES, wanted, strict=True)))


@pytest.mark.parametrize('backend', BACKENDS)
def test_an_image_does_not_depend_on_its_batch(backend):
    leaves, options = conv_operands('PlainMamba', batch=4)
    leaves = rounded(leaves, torch.float32)
    results = {}
    for images in (slice(0, 4), slice(2, 3)):
        own = {**leaves, 'x': leaves['x'][images].detach().requires_grad_()}
        one = {n: t[images] if isinstance(t, torch.Tensor) else t for n, t in options.items()}
        out = kept_conv(**own, **one, backend=backend)
        results[images.start] = [out[2 - images.start], grads_of(out, own, out.detach())['x'][2 - images.start]]
    assert all(torch.equal(a, b) for a, b in zip(*results.values(), strict=True))


@NO_CPP
def test_the_number_of_threads_changes_nothing():
    leaves, options = conv_operands('PlainMamba dense')
    leaves = rounded(leaves, torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            out = kept_conv(**leaves, **options, backend='cpp')
            results.append({'out': out, **grads_of(out, leaves, out.detach())})
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in other)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize(('batch', 'kept', 'wanted'), [(0, 3, 3), (2, 0, 0), (2, 0, 4), (2, 4, 0)])
def test_no_tokens_or_no_outputs(batch, kept, wanted, backend):
    cells, slot = (t[:batch] for t in draw_cells(2, 6, kept))
    out_cells, out_slot = (t[:batch] for t in draw_cells(2, 6, wanted))
    leaves = {
        'x': torch.randn(batch, kept, 5, requires_grad=True),
        'weight': torch.randn(5, 1, 3, 3, requires_grad=True),
        'bias': torch.randn(5, requires_grad=True),
    }
    places = dict(cells=cells, slot=slot, out_cells=out_cells, out_slot=out_slot, hw_shape=(2, 3), origin=(-1, -1))
    out = kept_conv(**leaves, **places, backend=backend)
    assert torch.equal(out, leaves['bias'].expand(batch, wanted, 5))
    grads = grads_of(out, leaves, torch.ones_like(out))
    assert grads['x'].shape == (batch, kept, 5)
    assert (grads['weight'] == 0).all()
    assert (grads['bias'] == batch * wanted).all()


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', ['cells', 'slot', 'out_cells', 'out_slot'])
def test_cells_and_slots_that_contradict_each_other_are_named(name, backend):
    leaves, options = conv_operands('wide, at other cells')
    right = options[name].long()
    wrongs = {'negative': -1, 'too large': right.shape[1] + 1000, 'wrapped': 2**32, 'another one': right[1, 5]}
    if 'slot' in name:
        at = (right[1] >= 0).nonzero()[3]  # a cell that has a token
        wrongs['another one'] = right[1].max() - right[1, at]
    else:
        at = 4
    for value in wrongs.values():
        wrong = right.clone()
        wrong[1, at] = value
        with pytest.raises(
            ValueError, match=f'{name.replace("slot", "cells")} must have values from 0 to 29, none twice'
        ):
            kept_conv(**leaves, **{**options, name: wrong}, backend=backend)
        with pytest.raises(ValueError, match='none twice'):
            torch.func.jvp(lambda x: kept_conv(**{**leaves, 'x': x}, **{**options, name: wrong}), *[(leaves['x'],)] * 2)  # noqa: B023


@pytest.mark.parametrize('backend', BACKENDS)
def test_operator_passes_opcheck(backend):
    leaves, options = conv_operands('wide, at other cells')
    tokens = [options[name] for name in ('cells', 'slot', 'out_cells', 'out_slot')]
    rest = (*options['hw_shape'], *options['origin'], backend)
    torch.library.opcheck(torch.ops.mmssmprune.kept_conv.default, (*leaves.values(), *tokens, *rest))
    bare = (leaves['x'].detach(), leaves['weight'], None)
    torch.library.opcheck(torch.ops.mmssmprune.kept_conv.default, (*bare, *tokens, *rest))


def test_compiles_without_graph_breaks():
    leaves, options = conv_operands('PlainMamba')
    outs = [
        f(**leaves)
        for f in (torch.compile(conv_with(options), fullgraph=True, backend='aot_eager'), conv_with(options))
    ]
    assert torch.equal(*outs)
    weight = torch.randn_like(outs[0])
    assert_same(*(grads_of(out, leaves, weight) for out in outs))


def conv_with(options: dict):
    return lambda **leaves: kept_conv(**leaves, **options)


@pytest.mark.parametrize('backend', BACKENDS)
def test_autocast_leaves_the_sums_in_float32(backend):
    leaves, options = conv_operands('PlainMamba')
    narrow = rounded(leaves, torch.bfloat16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = kept_conv(**narrow, **options, backend=backend)
    out.float().sum().backward()
    wide = {name: t.detach().float() for name, t in narrow.items()}
    assert torch.equal(out, kept_conv(**wide, **options, backend=backend).bfloat16())
    assert {n: t.grad.dtype for n, t in narrow.items()} == {n: t.dtype for n, t in narrow.items()}


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_flops_are_those_of_a_convolution_at_the_outputs(device):
    leaves, options = conv_operands('wide, at other cells')
    leaves = rounded(leaves, torch.float32, device)
    options = {n: t.to(device) if isinstance(t, torch.Tensor) else t for n, t in options.items()}
    with FlopCounterMode(display=False) as counter:
        out = kept_conv(**leaves, **options)
    assert out.shape == (3, 26, 20)
    assert counter.get_total_flops() == 2 * 3 * 26 * 20 * 2 * 5
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 3 * 26 * 20 * 2 * 5


def test_flops_of_a_dense_grid_are_those_that_torch_counts():
    leaves, options = conv_operands('PlainMamba dense')
    totals = []
    for conv in (lambda: kept_conv(**leaves, **options), lambda: on_whole_grid(**leaves, **options)):
        with FlopCounterMode(display=False) as counter:
            conv()
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1]


def test_wrong_operands_are_named():
    leaves, options = conv_operands('3x3')
    for wrong, message in [
        ({'x': leaves['x'][0]}, r'x must be \(B, M, C\) and weight'),
        ({'weight': leaves['weight'][:, 0, 0]}, r'or \(C, 1, kw\), got \(3, 13, 3\) and \(3, 3\)'),
        ({'weight': leaves['weight'][:2]}, r'weight must be \(3, 1, 3, 3\) for x'),
        ({'bias': leaves['bias'][:2]}, r'bias must be \(3,\) for x \(3, 13, 3\) on a grid \(4, 7\), got \(2,\)'),
        ({'cells': options['cells'][:, :5]}, r'cells must be \(3, 13\)'),
        ({'hw_shape': (4, 8)}, r'slot must be \(3, 32\) for x \(3, 13, 3\) on a grid \(4, 8\), got \(3, 28\)'),
        ({'slot': None}, 'cells and slot belong together; give both or neither'),
        ({'cells': None, 'slot': None}, r'x \(3, 13, 3\) must have a token for each cell of \(4, 7\), or give cells'),
        ({'out_cells': options['cells']}, 'out_cells and out_slot belong together; give both or neither'),
        ({'out_cells': options['cells'], 'out_slot': options['slot'][:1]}, r'out_slot must be \(3, 28\)'),
        ({'x': leaves['x'].int()}, 'x must be a floating-point tensor, got torch.int32'),
        ({'weight': leaves['weight'] * 1j}, 'weight must be a floating-point tensor, got torch.complex128'),
        ({'slot': options['slot'].float()}, 'slot must be an integer tensor, got torch.float32'),
        ({'bias': leaves['bias'].to('meta')}, 'bias must be on cpu as the other operands are, got meta'),
        ({'backend': 'cuda'}, "unknown kept_conv backend 'cuda'; the names are naive, torch, cpp, triton"),
        ({'backend': 'triton'}, r"'triton' cannot run torch.float64 tensors on cpu here \(it computes in float32\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            kept_conv(**{**leaves, **options, **wrong})


def test_the_variable_chooses_where_it_can(monkeypatch):
    default = CONV_BACKENDS.choose(None, torch.device('cpu'), torch.float32)
    assert default == ('cpp' if cpp.problem() is None else 'torch')
    assert CONV_BACKENDS.choose(None, torch.device('meta'), torch.float32) == 'torch'
    monkeypatch.setenv('MMSSMPRUNE_CONV_BACKEND', 'naive')
    assert CONV_BACKENDS.choose(None, torch.device('cpu'), torch.float32) == 'naive'
    assert CONV_BACKENDS.choose('torch', torch.device('cpu'), torch.float32) == 'torch'
    monkeypatch.setenv('MMSSMPRUNE_CONV_BACKEND', 'triton')  # not these tensors: the default runs
    assert CONV_BACKENDS.choose(None, torch.device('cpu'), torch.float64) == default
    monkeypatch.setenv('MMSSMPRUNE_CONV_BACKEND', 'cuda')
    with pytest.raises(ValueError, match="unknown kept_conv backend 'cuda' in MMSSMPRUNE_CONV_BACKEND"):
        CONV_BACKENDS.choose(None, torch.device('cpu'), torch.float32)


def test_without_a_compiler_the_portable_one_is_used():
    script = (
        'import torch\n'
        'from mmssmprune.ops import kept_conv\n'
        'from mmssmprune.ops.kept_conv import CONV_BACKENDS\n'
        'assert CONV_BACKENDS.choose(None, torch.device("cpu"), torch.float32) == "torch"\n'
        'zero, one = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 1)\n'
        'options = dict(cells=zero, slot=zero, hw_shape=(1, 1), origin=(0, 0))\n'
        'assert kept_conv(one, one, **options).item() == 1\n'
        'kept_conv(one, one, **options, backend="cpp")\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], env={**os.environ, 'CXX': 'none'}, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == (
        "ValueError: kept_conv backend 'cpp' cannot run torch.float32 tensors on cpu here (no C++ compiler (none) was "
        'found); use naive or torch'
    )


@NO_CPP
def test_wrong_results_of_the_compiled_code_are_noticed(monkeypatch):
    right = cpp.forward
    monkeypatch.setattr(cpp, 'forward', lambda p: right(p) * 1.01)
    assert cpp._wrong_result() == 'it computes wrong torch.float32 values on this CPU'
