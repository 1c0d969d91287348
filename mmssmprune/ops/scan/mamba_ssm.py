"""The CUDA kernel of the mamba-ssm package, through its public function. Optional; GPU tensors only, no float64."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .common import ScanInputs, fold_gap


@cache
def load():
    """Return mamba-ssm's ``selective_scan_fn``, or None where the package or its CUDA extension does not import."""
    try:
        import selective_scan_cuda  # noqa: F401  (the compiled half; without it selective_scan_fn fails at call time)
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception:  # a broken build raises anything from ImportError to OSError
        return None
    return selective_scan_fn


def problem(device_type: str = 'cuda', dtype: torch.dtype = torch.float32) -> str | None:
    """Return None where it can compute in ``dtype`` on a device, else ''."""
    return None if device_type == 'cuda' and dtype != torch.float64 and load() is not None else ''


problem._dynamo_marked_constant = True  # as `cpp.problem`


def scan(p: ScanInputs) -> Tensor:
    """Differentiable in every input."""
    return fold_gap(p, _one_delta)


def _one_delta(p: ScanInputs) -> Tensor:
    return load()(p.u, p.delta, p.A, p.B, p.C, p.D, p.z, p.delta_bias, p.delta_softplus)
