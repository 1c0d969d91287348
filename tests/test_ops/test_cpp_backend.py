"""The compiled backend: every layout of its operands, its own exponential, and where there is no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from scan_operands import NO_CPP, assert_same, grads_of, scan_operands

from mmssmprune.ops import available_backends, compile_cpp, selective_scan
from mmssmprune.ops.scan import cpp
from mmssmprune.ops.scan.cpp_launch import SOURCE
from mmssmprune.ops.scan.selective_scan import run_scan

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'gap_time')


def scan(operands: dict, backend: str, softplus: bool = True) -> torch.Tensor:
    return run_scan(*(operands.get(name) for name in NAMES), softplus, backend)


def compare(operands: dict, rtol: float, grad_rtol: float, **views) -> None:
    """Outputs and gradients against the float64 naive scan; ``views`` make operands from the leaves."""
    exact = {name: t.detach().double().requires_grad_() for name, t in operands.items()}
    outs = [
        scan({n: views.get(n, lambda t: t)(t) for n, t in leaves.items()}, backend)
        for leaves, backend in ((operands, 'cpp'), (exact, 'naive'))
    ]
    weight = torch.randn_like(outs[1])
    assert_same({'out': outs[0]}, {'out': outs[1]}, rtol)
    grads = grads_of(outs[0], operands, weight.to(outs[0].dtype))
    assert_same(grads, grads_of(outs[1], exact, weight), grad_rtol)


@NO_CPP
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('without', [(), ('D', 'z'), ('gap_time', 'delta_bias')], ids='+'.join)
@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (3, 5, 3, 63), (2, 24, 4, 100), (2, 130, 16, 33), (1, 17, 19, 16)])
def test_equals_naive(shape, without, dtype, poisoned_memory):
    operands = scan_operands(*shape, dtype)
    operands['gap_time'] = (torch.rand(*shape[:2], shape[3], dtype=dtype) * 3).requires_grad_()
    operands = {name: t for name, t in operands.items() if name not in without}
    compare(operands, *((1e-5, 1e-5) if dtype == torch.float32 else (1e-12, 1e-11)))


@NO_CPP
def test_reads_any_layout(poisoned_memory):
    """Channels last, every second step, one delta and one B for several batch entries or channels."""
    batch, dim, d_state, length = 4, 20, 4, 37
    operands = scan_operands(batch, dim, d_state, length)
    leaves = {
        'u': torch.randn(batch, length, dim),
        'delta': torch.randn(1, length, dim),
        'B': torch.randn(1, length, d_state),
        'C': torch.randn(batch, d_state, 2 * length),
        'z': torch.randn(batch, 1, length),
        'A': operands['A'].detach().t().contiguous(),
        'gap_time': torch.rand(1, dim, 1),
    }
    leaves = {name: t.double().requires_grad_() for name, t in leaves.items()}
    views = {
        'u': lambda t: t.transpose(1, 2),
        'delta': lambda t: t.expand(batch, -1, -1).transpose(1, 2),
        'B': lambda t: t.expand(batch, -1, -1).transpose(1, 2),
        'C': lambda t: t[:, :, ::2],
        'z': lambda t: t.expand(-1, dim, -1),
        'A': lambda t: -t.abs().t(),
        'gap_time': lambda t: t.expand(batch, -1, length),
    }
    compare(leaves, 1e-12, 1e-11, **views)


@NO_CPP
def test_gradcheck():
    operands = scan_operands(2, 3, 2, 5)
    operands['gap_time'] = torch.rand(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: run_scan(*t, True, 'cpp'), tuple(operands.values()))


@NO_CPP
@pytest.mark.parametrize(('dtype', 'ulp'), [(torch.float32, 2**-23), (torch.float64, 2**-52)])
def test_exponential_over_its_whole_range(dtype, ulp):
    """With u = (1, 0), B = C = 1 and A = 1 the second output is exp of the second delta."""
    bottom, top = (-87, 88) if dtype == torch.float32 else (-708, 709)
    x = torch.linspace(bottom, top, 4099, dtype=dtype)
    x = torch.cat([x, torch.tensor([0, -1e-7, -2000, 2000, float('-inf'), float('inf'), float('nan')], dtype=dtype)])
    ones = torch.ones(1, 1, 2, dtype=dtype)
    u, delta = ones.repeat(1, len(x), 1), torch.stack([torch.ones_like(x), x], 1)[None]
    u[..., 1] = 0
    delta[0, -3:, 1] = 0  # delta * u has to stay finite; these three go in as time without input
    gap = torch.stack([torch.zeros_like(x), x - delta[0, :, 1]], 1)[None]
    out = run_scan(u, delta, torch.ones(len(x), 1, dtype=dtype), ones, ones, None, None, None, gap, False, 'cpp')[
        0, :, 1
    ]
    assert out[-7] == 1
    assert out[-5] == 0 and out[-3] == 0
    assert out[-4].isinf() and out[-2].isinf() and out[-1].isnan()
    want = x[:-7].double().exp()
    assert ((out[:-7].double() - want).abs() <= want * (2 + x[:-7].abs()) * ulp).all()


@NO_CPP
@pytest.mark.parametrize(('dtype', 'ulp'), [(torch.float32, 2**-23), (torch.float64, 2**-52)])
def test_softplus_and_its_slope(dtype, ulp):
    """With u = B = C = 1 and one step the output is softplus(delta)."""
    x = torch.linspace(-80, 30, 4099, dtype=dtype)[None, :, None].requires_grad_()
    ones = torch.ones_like(x)
    state = torch.ones(1, 1, 1, dtype=dtype)
    out = selective_scan(ones, x, -ones[0], state, state, delta_softplus=True, backend='cpp')
    wide = x.detach().double().requires_grad_()
    want = F.softplus(wide)
    assert ((out - want).abs() <= want * (4 + x.abs()) * ulp).all()
    (slope,), (want,) = torch.autograd.grad(out.sum(), x), torch.autograd.grad(want.sum(), wide)
    assert ((slope - want).abs() <= want * (4 + x.abs()) * ulp).all()


@NO_CPP
def test_two_threads_compute_the_same():
    results = {}
    for batch in (1, 3):
        operands = scan_operands(batch, 40, 4, 50, torch.float32)
        weight = torch.randn(batch, 40, 50)
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            try:
                out = selective_scan(**operands, delta_softplus=True, backend='cpp')
                found = {'out': out, **grads_of(out, operands, weight)}
            finally:
                torch.set_num_threads(1)
            results.setdefault(threads, []).append(found)
        (one,), (two, again) = results.pop(1), results.pop(2)
        assert all(torch.equal(two[name], again[name]) for name in two)
        # With one batch entry B and C get a sum of two halves of the channels.
        assert all(torch.equal(two[name], one[name]) for name in one if batch > 1 or name not in 'BC')
        assert_same(two, one, 1e-6)


@NO_CPP
def test_is_the_default_on_a_cpu_alone():
    assert available_backends('cpu')[-1] == 'cpp'
    assert 'cpp' not in available_backends('cuda')
    assert 'cpp' not in available_backends('meta')


def test_without_a_compiler_the_portable_scan_is_used():
    script = (
        'import torch\n'
        'from mmssmprune.ops import available_backends, selective_scan\n'
        'assert available_backends() == ["naive", "torch"]\n'
        'ones = torch.ones(1, 1, 1)\n'
        'assert selective_scan(ones, ones, -ones[0], ones, ones).item() == 1\n'
        'selective_scan(ones, ones, -ones[0], ones, ones, backend="cpp")\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], env={**os.environ, 'CXX': 'none'}, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == (
        "ValueError: selective scan backend 'cpp' cannot run torch.float32 tensors on cpu here (no C++ compiler (none) "
        'was found); use naive or torch'
    )


@pytest.mark.skipif(shutil.which('false') is None, reason='needs a program that fails')
def test_a_compiler_that_fails_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'false')
    monkeypatch.setenv('MMSSMPRUNE_CACHE', str(tmp_path))
    assert compile_cpp.load(SOURCE) == (None, 'false failed: ')
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('MMSSMPRUNE_CACHE', str(tmp_path / 'file'))
    library, reason = compile_cpp.load(SOURCE)
    assert library is None
    assert reason


@NO_CPP
def test_two_at_once_compile_into_one_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('MMSSMPRUNE_CACHE', str(tmp_path))
    monkeypatch.setattr(compile_cpp, 'FLAGS', ['-O0', *compile_cpp.FLAGS[2:], '-std=c++17'])
    with ThreadPoolExecutor(2) as pool:
        loaded = list(pool.map(lambda _: compile_cpp.load(SOURCE), range(2)))
    assert all(reason is None for _, reason in loaded)
    (made,) = tmp_path.iterdir()
    assert made.suffix == '.so'


@NO_CPP
@pytest.mark.parametrize('directions', [1, 4])
def test_wrong_results_are_noticed(directions, monkeypatch):
    right = cpp.forward
    wrong = lambda p: (right(p)[0] * (1.01 if p.directions == directions else 1), *right(p)[1:])  # noqa: E731
    monkeypatch.setattr(cpp, 'forward', wrong)
    assert cpp._wrong_result() == 'it computes wrong torch.float32 values on this CPU'
