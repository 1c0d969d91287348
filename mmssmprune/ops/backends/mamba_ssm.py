"""The CUDA kernel of the mamba-ssm package, through its public function. Optional; GPU tensors only, no float64."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import ScanInputs


@cache
def load():
    """Return mamba-ssm's ``selective_scan_fn``, or None where the package or its CUDA extension does not import."""
    try:
        import selective_scan_cuda  # noqa: F401  (the compiled half; without it selective_scan_fn fails at call time)
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception:  # a broken build raises anything from ImportError to OSError
        return None
    return selective_scan_fn


def scan(p: ScanInputs) -> Tensor:
    """Differentiable in every input. A gap is folded into delta and u, since the kernel knows one delta only."""
    selective_scan_fn = load()
    if p.gap_delta is None:
        return selective_scan_fn(p.u, p.delta, p.A, p.B, p.C, p.D, p.z, p.delta_bias, p.delta_softplus)
    delta = p.delta if p.delta_bias is None else p.delta + p.delta_bias[:, None]
    if p.delta_softplus:
        delta = F.softplus(delta)
    elapsed = delta + p.gap_delta
    # Where no time passes at all nothing is added either, so any finite ratio will do.
    u = p.u * delta / torch.where(elapsed == 0, torch.ones_like(elapsed), elapsed)
    y = selective_scan_fn(u, elapsed, p.A, p.B, p.C)
    if p.D is not None:
        y = y + p.D[:, None] * p.u
    return y if p.z is None else y * F.silu(p.z)
