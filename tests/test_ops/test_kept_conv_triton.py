"""The Triton kernels of the convolution in a process whose Triton is an interpreter, and their compilation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from triton_processes import NEEDS_TRITON, assert_passes_in_the_interpreter, run_python

from mmssmprune.ops import kept_conv

HERE = Path(__file__).parent


@NEEDS_TRITON
def test_kernels_are_right_in_the_interpreter():
    assert_passes_in_the_interpreter(HERE / 'test_kept_conv_kernels.py')


@NEEDS_TRITON
@pytest.mark.slow
def test_every_case_is_right_in_the_interpreter():
    assert_passes_in_the_interpreter(HERE / 'test_kept_conv_kernels.py', '-m', 'slow')


@NEEDS_TRITON
def test_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter takes what the compiler refuses, so the compiler has its say as well."""
    variables = {'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(tmp_path)}
    done = run_python('tests/helpers/kept_conv_targets.py', '90', **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split()[0] for line in done.stdout.splitlines()] == ['conv_kernel', 'sums_kernel', 'conv_kernel']


@pytest.mark.skipif(os.environ.get('TRITON_INTERPRET') == '1', reason='the interpreter runs on a CPU')
def test_without_the_interpreter_it_says_what_it_needs():
    zero, one = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 1)
    with pytest.raises(ValueError, match=r'\(it needs a GPU, or TRITON_INTERPRET=1 from the start\); use naive or'):
        kept_conv(one, one, cells=zero, slot=zero, hw_shape=(1, 1), origin=(0, 0), backend='triton')


def test_a_cuda_machine_without_triton_falls_back():
    script = (
        'import sys; sys.modules["triton"] = None\n'
        'import torch\n'
        'from mmssmprune.ops.kept_conv import CONV_BACKENDS\n'
        'assert CONV_BACKENDS.choose(None, torch.device("cuda"), torch.float32) == "torch"\n'
    )
    done = run_python('-c', script)
    assert done.returncode == 0, done.stderr
