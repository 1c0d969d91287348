"""Whether Triton can run the kernels of an operator here; it is imported once a call asks for it."""

from __future__ import annotations

import importlib
import os
from functools import cache

import torch

# The oldest Triton that compiles the kernels; see docs/versions.md.
FLOOR = [3, 4]


def problem_of(kernels: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Say in a few words why the module ``kernels`` cannot compute in ``dtype`` on a device, or return None."""
    if dtype == torch.float64:
        return 'it computes in float32'
    if device_type not in ('cuda', 'cpu'):
        return f'there is no Triton for {device_type}'
    if device_type == 'cpu' and os.environ.get('TRITON_INTERPRET') != '1':
        return 'it needs a GPU, or TRITON_INTERPRET=1 from the start'
    return _imported(kernels)


@cache
def _imported(kernels: str) -> str | None:
    return import_problem(kernels)


def import_problem(kernels: str) -> str | None:
    """Say in a few words why the module ``kernels`` cannot be used with the installed Triton, or return None."""
    try:
        import triton

        if [int(part) for part in triton.__version__.split('.')[:2]] < FLOOR:
            return f'it needs Triton {FLOOR[0]}.{FLOOR[1]} or later, and {triton.__version__} is installed'
        importlib.import_module(kernels)
    except Exception as error:  # a broken Triton raises anything
        return f'Triton {FLOOR[0]}.{FLOOR[1]} or later does not import: {error}'
    return None
