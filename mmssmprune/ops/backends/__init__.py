"""Backends of the selective scan, by name.

A backend module has either ``scan(inputs)``, differentiable by autograd, or the pair ``forward(inputs)``, returning the
output and what it saves, and ``backward(inputs, saved, grad_out)``, returning a gradient per operand.
"""

from __future__ import annotations

from types import ModuleType

import torch

from . import chunked, cpp, mamba_ssm, naive

BACKENDS: dict[str, ModuleType] = {'naive': naive, 'torch': chunked, 'cpp': cpp, 'mamba_ssm': mamba_ssm}


def available_backends(device: torch.device | str = 'cpu') -> list[str]:
    """Names of the backends that run on ``device`` here, the fastest last: ``['naive', 'torch', 'cpp']`` on a CPU."""
    kind = torch.device(device).type
    names = ['naive', 'torch']
    if kind == 'cpu' and cpp.problem() is None:
        names.append('cpp')
    if kind == 'cuda' and mamba_ssm.load() is not None:
        names.append('mamba_ssm')
    return names


def choose_backend(name: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend to use: ``name`` if it can run these tensors, or the fastest that can if ``name`` is None.

    Raises:
        ValueError: ``name`` is unknown, or cannot run on this device or dtype.
    """
    usable = available_backends(device)
    if dtype == torch.float64 and 'mamba_ssm' in usable:
        usable.remove('mamba_ssm')
    if name is None:
        return usable[-1]
    if name not in BACKENDS:
        raise ValueError(f'unknown selective scan backend {name!r}; the names are {", ".join(BACKENDS)}')
    if name not in usable:
        here = f'here ({cpp.problem()})' if name == 'cpp' and device.type == 'cpu' else 'here'
        raise ValueError(
            f'selective scan backend {name!r} cannot run {dtype} tensors on {device} {here}; use {" or ".join(usable)}'
        )
    return name
