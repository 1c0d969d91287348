from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from scan_operands import FAST, assert_same, grads_of, scan_operands
from torch.utils.flop_counter import FlopCounterMode

from mmssmprune.ops import available_backends, selective_scan
from mmssmprune.ops.scan import mamba_ssm, naive
from mmssmprune.ops.scan import torch as chunked
from mmssmprune.ops.scan.inputs import Sequences

OPTIONS = [(), ('D',), ('z',), ('delta_bias',), ('D', 'z', 'delta_bias')]


def pick(operands: dict, options: tuple[str, ...]) -> dict:
    return {k: t for k, t in operands.items() if k in ('u', 'delta', 'A', 'B', 'C', *options)}


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('softplus', [True, False])
@pytest.mark.parametrize('options', OPTIONS, ids='+'.join)
@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (3, 5, 4, 63), (2, 7, 1, 100), (2, 3, 16, 257)])
def test_fast_backend_equals_naive(shape, options, softplus, backend, poisoned_memory):
    operands = pick(scan_operands(*shape), options)
    if not softplus:  # a step size is positive
        operands['delta'] = F.softplus(operands['delta']).detach().requires_grad_()
    outs = [selective_scan(**operands, delta_softplus=softplus, backend=b) for b in (backend, 'naive')]
    assert_same({'out': outs[0]}, {'out': outs[1]})
    weight = torch.randn_like(outs[0])
    assert_same(*(grads_of(out, operands, weight) for out in outs), rtol=1e-11)


def test_naive_equals_the_equations_by_hand():
    u, delta, B, C = (torch.tensor([[values]], dtype=torch.float64) for values in ([1, 2], [0.5, 2], [3, 4], [5, 6]))
    A, D = torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([10.0], dtype=torch.float64)
    h1 = 0.5 * 3 * 1
    h2 = torch.exp(torch.tensor(-2.0, dtype=torch.float64)) * h1 + 2 * 4 * 2
    expected = torch.tensor([[[5 * h1 + 10, 6 * h2 + 20]]], dtype=torch.float64)
    assert torch.allclose(selective_scan(u, delta, A, B, C, D, backend='naive'), expected, rtol=1e-15)


@pytest.mark.parametrize('chunk', [1, 2, 7, 50, 64])
def test_result_does_not_depend_on_the_chunk_length(chunk, monkeypatch):
    operands = scan_operands(2, 3, 4, 50)
    expected = selective_scan(**operands, delta_softplus=True, backend='naive')
    monkeypatch.setattr(chunked, 'chunk_length', lambda *_: chunk)
    out = selective_scan(**operands, delta_softplus=True, backend='torch')
    weight = torch.randn_like(out)
    assert_same({'out': out}, {'out': expected})
    assert_same(grads_of(out, operands, weight), grads_of(expected, operands, weight), rtol=1e-11)


@pytest.mark.parametrize('backend', FAST)
def test_strong_decay_stays_finite_in_float32(backend):
    operands = scan_operands(2, 3, 4, 200, torch.float32)
    operands['delta'] = torch.full((2, 3, 200), 500.0, requires_grad=True)
    operands['A'] = torch.full((3, 4), -20.0, requires_grad=True)
    out = selective_scan(**operands, backend=backend)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in grads_of(out, operands, torch.ones_like(out)).values())


@pytest.mark.parametrize('backend', FAST)
def test_float32_is_close_to_float64_on_a_long_sequence(backend):
    operands = scan_operands(1, 4, 16, 2000)
    exact = selective_scan(**operands, delta_softplus=True, backend='naive')
    out = selective_scan(**{k: t.float() for k, t in operands.items()}, delta_softplus=True, backend=backend)
    assert out.dtype == torch.float32
    assert_same({'out': out}, {'out': exact}, rtol=1e-5)


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_autocast_computes_and_returns_float32(backend):
    operands = {k: t.detach().bfloat16() for k, t in scan_operands(2, 3, 4, 20).items()}
    operands['B'].requires_grad_()
    wide = {k: t.detach().float() for k, t in operands.items()}
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = selective_scan(**operands, delta_softplus=True, backend=backend)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert operands['B'].grad.dtype == torch.bfloat16
    assert torch.equal(out, selective_scan(**wide, delta_softplus=True, backend=backend))


@pytest.mark.parametrize('backend', FAST)
def test_half_precision_without_autocast_is_float32_rounded(backend):
    operands = {k: t.detach().half().requires_grad_() for k, t in scan_operands(2, 3, 4, 20).items()}
    wide = {k: t.detach().float().requires_grad_() for k, t in operands.items()}
    out, expected = (selective_scan(**o, delta_softplus=True, backend=backend) for o in (operands, wide))
    assert out.dtype == torch.float16
    assert torch.equal(out, expected.half())
    weight = torch.ones_like(out)
    grads, expected = grads_of(out, operands, weight), grads_of(expected, wide, weight.float())
    assert all(torch.equal(g, expected[name].half()) for name, g in grads.items())


@pytest.mark.parametrize('backend', ['naive', *FAST])
@pytest.mark.parametrize('batch', [0, 2])
def test_empty_sequence(batch, backend):
    operands = scan_operands(batch, 3, 4, 0)
    out = selective_scan(**operands, delta_softplus=True, backend=backend)
    assert out.shape == (batch, 3, 0)
    grads = grads_of(out, operands, out)
    assert all(g.shape == operands[name].shape for name, g in grads.items())
    assert (grads['A'] == 0).all()


@pytest.mark.parametrize('backend', ['naive', *FAST])
def test_operator_passes_opcheck(backend):
    operands = list(scan_operands(2, 3, 4, 3).values())
    u, delta, A, B, C, D, z, bias = (t if t.dim() < 3 else t.transpose(1, 2) for t in operands)
    u, delta, A, B, C, D, bias = (t[None] for t in (u, delta, A, B, C, D, bias))
    gap_time = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    rest = (*(None,) * 5, 1, 0, False, True, True, backend, True)
    torch.library.opcheck(torch.ops.mmssmprune.multi_scan.default, (u, delta, A, B, C, D, z, bias, *rest, gap_time))
    bare = (u, delta, A, B, C, *(None,) * 8, 1, 0, False, False, False, backend)
    torch.library.opcheck(torch.ops.mmssmprune.multi_scan.default, bare)


@pytest.mark.parametrize('backend', [None, 'torch'])
def test_compiles_without_graph_breaks(backend):
    operands = scan_operands(2, 3, 4, 9)

    def scan(**operands):
        return selective_scan(**operands, delta_softplus=True, backend=backend)

    out, expected = torch.compile(scan, fullgraph=True, backend='aot_eager')(**operands), scan(**operands)
    weight = torch.randn_like(out)
    assert torch.equal(out, expected)
    assert_same(grads_of(out, operands, weight), grads_of(expected, operands, weight))


def test_flop_formula_is_the_fields_convention():
    operands = scan_operands(2, 3, 4, 9)
    with FlopCounterMode(display=False) as counter:
        selective_scan(**operands)
        selective_scan(**pick(operands, ()))
    per_token = 2 * 3 * 9  # B D L
    assert counter.get_total_flops() == per_token * (9 * 4 + 1 + 1) + per_token * 9 * 4


def test_wrong_shape_names_the_operand():
    operands = scan_operands(2, 3, 4, 9)
    operands['B'] = operands['B'][:, :2]
    with pytest.raises(ValueError, match=r'B must be \(2, 4, 9\).* got \(2, 2, 9\)'):
        selective_scan(**operands)


def test_backends_by_name():
    operands = scan_operands(1, 2, 2, 3)
    assert [name for name in available_backends('cpu') if name != 'cpp'] == ['naive', 'torch']
    with pytest.raises(ValueError, match=r"unknown .* 'cuda'; the names are naive, torch, cpp, mamba_ssm"):
        selective_scan(**operands, backend='cuda')
    with pytest.raises(ValueError, match=r"'mamba_ssm' cannot run torch.float64 tensors on cpu here; use naive or "):
        selective_scan(**operands, backend='mamba_ssm')


def test_mamba_ssm_gap_is_folded_exactly(monkeypatch):
    """The kernel itself needs a GPU; what surrounds it is checked with the naive scan in the kernel's place."""

    def kernel(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
        assert z is None
        return naive.scan(Sequences(u, delta, A, B, C, D, delta_bias, None, delta_softplus))

    monkeypatch.setattr(mamba_ssm, 'load', lambda: kernel)
    leaves = scan_operands(2, 3, 4, 11)
    del leaves['z']
    leaves['gap_time'] = (torch.rand(2, 3, 11, dtype=torch.float64) * 3).requires_grad_()
    inputs = Sequences(**leaves, delta_softplus=True)
    outs = [module.scan(inputs) for module in (mamba_ssm, naive)]
    weight = torch.randn_like(outs[0])
    assert_same({'out': outs[0]}, {'out': outs[1]})
    assert_same(*(grads_of(out, leaves, weight) for out in outs), rtol=1e-11)


def test_import_needs_torch_alone():
    script = (
        'import sys\n'
        'for name in ("mmengine", "mmcv", "mmdet", "mmseg", "mamba_ssm", "triton"): sys.modules[name] = None\n'
        'import mmssmprune.ops\n'
    )
    subprocess.run([sys.executable, '-c', script], check=True)
