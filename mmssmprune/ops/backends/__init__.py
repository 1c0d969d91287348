"""Backends of the selective scan, by name.

A backend module has either ``scan(inputs)``, differentiable by autograd, or the pair ``forward(inputs)``, returning the
output and what it saves, and ``backward(inputs, saved, grad_out)``, returning a gradient per operand. One that walks
several directions by itself also has ``multi_forward`` and ``multi_backward``; for the others `composed` does it.
"""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType

import torch

from ..log_choice import log_choice
from . import chunked, cpp, mamba_ssm, naive, triton

BACKENDS: dict[str, ModuleType] = {
    'naive': naive,
    'torch': chunked,
    'cpp': cpp,
    'mamba_ssm': mamba_ssm,
    'triton': triton,
}
VARIABLE = 'MMSSMPRUNE_SCAN_BACKEND'


def available_backends(device: torch.device | str = 'cpu') -> list[str]:
    """Names of the backends that run on ``device`` here, the fastest last: ``['naive', 'torch', 'cpp']`` on a CPU."""
    kind = torch.device(device).type
    names = ['naive', 'torch']
    if kind == 'cpu' and cpp.problem() is None:
        names.append('cpp')
    if kind == 'cuda' and mamba_ssm.load() is not None:
        names.append('mamba_ssm')
    if kind == 'cuda' and triton.problem(kind) is None:
        names.append('triton')
    return names


def choose_backend(name: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend to use: ``name`` if it can run these tensors, or the fastest that can if ``name`` is None.

    In place of None the environment variable MMSSMPRUNE_SCAN_BACKEND counts, for the tensors that it can run.

    Raises:
        ValueError: ``name`` is unknown, or cannot run on this device or dtype; the variable's name is unknown.
    """
    usable = available_backends(device)
    by_name = [*usable, 'triton'] if device.type == 'cpu' and triton.problem(device.type) is None else usable
    if dtype == torch.float64:
        usable, by_name = ([n for n in names if n not in ('mamba_ssm', 'triton')] for names in (usable, by_name))
    wanted = name if name is not None else _wanted_by_environment()
    if wanted is not None and wanted not in BACKENDS:
        source = '' if name is not None else f' in {VARIABLE}'
        raise ValueError(f'unknown selective scan backend {wanted!r}{source}; the names are {", ".join(BACKENDS)}')
    if wanted in by_name:
        return wanted
    if name is None:
        return usable[-1]
    problem = {'cpp': cpp.problem, 'triton': lambda: triton.problem(device)}.get(name)
    reason = problem() if problem and (name == 'triton' or device.type == 'cpu') else None
    here = f'here ({reason})' if reason else 'here'
    raise ValueError(
        f'selective scan backend {name!r} cannot run {dtype} tensors on {device} {here}; use {" or ".join(usable)}'
    )


def _wanted_by_environment() -> str | None:
    return os.environ.get(VARIABLE) or None


_wanted_by_environment._dynamo_marked_constant = True  # as `cpp.problem`


@cache
def announce(name: str, device_type: str) -> None:
    """Log once which backend runs, and why the fastest one of the device cannot."""
    log_choice('selective scans', name, device_type, {'cpu': ('cpp', cpp), 'cuda': ('triton', triton)})
