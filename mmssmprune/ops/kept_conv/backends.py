"""Backends of the convolution by name, and the choice between them."""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType

import torch

from ..log_choice import log_choice
from . import cpp, dense_grid, naive, triton

BACKENDS: dict[str, ModuleType] = {'naive': naive, 'torch': dense_grid, 'cpp': cpp, 'triton': triton}
VARIABLE = 'MMSSMPRUNE_CONV_BACKEND'


@cache
def announce(name: str, device_type: str) -> None:
    """Log once which backend runs, and why the fastest one of the device cannot."""
    log_choice('convolutions over tokens', name, device_type, {'cpu': ('cpp', cpp), 'cuda': ('triton', triton)})


def usable_backends(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Names of the backends that compute in ``dtype`` on ``device`` here, the fastest last."""
    names = ['naive', 'torch']
    if device.type == 'cpu' and cpp.problem() is None:
        names.append('cpp')
    if device.type == 'cuda' and dtype != torch.float64 and triton.problem('cuda') is None:
        names.append('triton')
    return names


def choose_backend(name: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend to use: ``name`` if it can run these tensors, or the fastest that can if ``name`` is None.

    In place of None the environment variable MMSSMPRUNE_CONV_BACKEND counts, for the tensors that it can run. Triton's
    interpreter runs by name only.

    Raises:
        ValueError: ``name`` is unknown, or cannot run on this device or dtype; the variable's name is unknown.
    """
    usable = usable_backends(device, dtype)
    wanted = name if name is not None else _wanted_by_environment()
    if wanted is not None and wanted not in BACKENDS:
        source = '' if name is not None else f' in {VARIABLE}'
        raise ValueError(f'unknown kept_conv backend {wanted!r}{source}; the names are {", ".join(BACKENDS)}')
    if wanted in usable or (wanted == 'triton' and _why_not(wanted, device, dtype) is None):
        return wanted
    if name is None:
        return usable[-1]
    raise ValueError(
        f'kept_conv backend {name!r} cannot run {dtype} tensors on {device} here ({_why_not(name, device, dtype)}); '
        f'use {" or ".join(usable)}'
    )


def _why_not(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    if name == 'cpp':
        return cpp.problem() if device.type == 'cpu' else 'it is for CPUs'
    if dtype == torch.float64:
        return 'it computes in float32'
    return triton.problem(device.type)


def _wanted_by_environment() -> str | None:
    return os.environ.get(VARIABLE) or None


_wanted_by_environment._dynamo_marked_constant = True  # as `cpp.problem`
