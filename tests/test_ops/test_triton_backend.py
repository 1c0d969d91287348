"""The tests of the Triton kernels in a process whose Triton is an interpreter, their compilation, and their choice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from triton_processes import NEEDS_TRITON, assert_passes_in_the_interpreter, run_python

from mmssmprune.ops import available_backends, multi_scan, selective_scan
from mmssmprune.ops.scan import SCAN_BACKENDS

HERE = Path(__file__).parent


@NEEDS_TRITON
def test_kernels_are_right_in_the_interpreter():
    assert_passes_in_the_interpreter(HERE / 'test_triton_kernels.py')


@NEEDS_TRITON
@pytest.mark.slow
def test_every_case_is_right_in_the_interpreter():
    assert_passes_in_the_interpreter(HERE / 'test_triton_kernels.py', '-m', 'slow')


@NEEDS_TRITON
def test_mixers_are_the_official_ones_in_the_interpreter():
    """The smallest golden cases of either family; the interpreter takes minutes for a whole model."""
    cases = 'float32 and mixer and (3x4 or L12)'
    done = run_python(
        *('-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(HERE.parent / 'test_golden.py'), '-k', cases),
        TRITON_INTERPRET='1',
        MMSSMPRUNE_SCAN_BACKEND='triton',
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert '2 passed' in done.stdout


def kernels_compiled_for(capability: str, cache: Path, *choice: str) -> list[str]:
    variables = {'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(cache)}
    done = run_python('tests/helpers/triton_targets.py', capability, *choice, **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split()[0] for line in done.stdout.splitlines() if '_kernel ' in line]


@NEEDS_TRITON
def test_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter takes what the compiler refuses, so the compiler has its say as well."""
    forward = ['ends_kernel', 'combine_kernel', 'walk_kernel', 'gate_kernel']
    backward = ['ungate_kernel', 'carry_kernel', 'combine_kernel', 'grads_kernel']
    assert kernels_compiled_for('90', tmp_path) == forward + backward


@NEEDS_TRITON
@pytest.mark.slow
@pytest.mark.parametrize('capability', ['80', '90'])
def test_every_kernel_compiles_for_a_gpu(capability, tmp_path):
    assert len(kernels_compiled_for(capability, tmp_path, 'all')) == 16


def test_is_never_the_default_on_a_cpu(monkeypatch):
    monkeypatch.setenv('MMSSMPRUNE_SCAN_BACKEND', 'triton')
    assert 'triton' not in available_backends('cpu')
    if os.environ.get('TRITON_INTERPRET') != '1':
        assert SCAN_BACKENDS.choose(None, torch.device('cpu'), torch.float32) == available_backends('cpu')[-1]


@NEEDS_TRITON
def test_the_interpreter_runs_only_by_name():
    script = (
        'import torch\n'
        'from mmssmprune.ops.scan import SCAN_BACKENDS\n'
        'def chosen(name, dtype): return SCAN_BACKENDS.choose(name, torch.device("cpu"), dtype)\n'
        'assert chosen(None, torch.float32) != "triton"\n'
        'assert chosen("triton", torch.float32) == "triton"\n'
        'import os; os.environ["MMSSMPRUNE_SCAN_BACKEND"] = "triton"\n'
        'assert chosen(None, torch.float32) == "triton"\n'
        'assert chosen(None, torch.float64) != "triton"\n'
    )
    done = run_python('-c', script, TRITON_INTERPRET='1')
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.environ.get('TRITON_INTERPRET') == '1', reason='the interpreter runs on a CPU')
def test_without_the_interpreter_it_says_what_it_needs():
    ones = torch.ones(1, 2, 1)
    needs = (
        r"'triton' cannot run torch.float32 tensors on cpu here \(it needs a GPU, or TRITON_INTERPRET=1 from the start"
    )
    with pytest.raises(ValueError, match=needs):
        selective_scan(ones, ones, -ones[0], ones[:, :1], ones[:, :1], backend='triton')
    with pytest.raises(ValueError, match=needs):
        multi_scan(ones, ones, -ones[0, :1], ones, ones, backend='triton')


def test_a_cuda_machine_without_triton_falls_back():
    script = (
        'import sys; sys.modules["triton"] = None\n'
        'from mmssmprune.ops import available_backends\n'
        'assert "triton" not in available_backends("cuda"), available_backends("cuda")\n'
    )
    done = run_python('-c', script)
    assert done.returncode == 0, done.stderr


def test_the_log_says_once_which_backend_runs():
    script = (
        'import logging, torch\n'
        'logging.basicConfig(level=logging.INFO, format="%(message)s")\n'
        'from mmssmprune.ops import selective_scan\n'
        'ones = torch.ones(1, 1, 1)\n'
        'for _ in range(2): selective_scan(ones, ones, -ones[0], ones, ones, backend="torch")\n'
    )
    done = run_python('-c', script)
    assert done.stderr.splitlines() == ['selective scans on cpu run in the torch backend']
