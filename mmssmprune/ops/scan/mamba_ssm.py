"""The CUDA kernel of the mamba-ssm package, through its public function. Optional; GPU tensors only, no float64."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import Sequences


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


def scan(p: Sequences) -> Tensor:
    """Differentiable in every input. The kernel knows one delta only: a gap goes into delta and u."""
    if p.gap_time is None:
        return load()(p.u, p.delta, p.A, p.B, p.C, p.D, None, p.delta_bias, p.delta_softplus)
    delta = p.delta if p.delta_bias is None else p.delta + p.delta_bias[:, None]
    if p.delta_softplus:
        delta = F.softplus(delta)
    elapsed = delta + p.gap_time
    # Where no time passes at all nothing is added either, so any finite ratio will do.
    u = p.u * delta / torch.where(elapsed == 0, torch.ones_like(elapsed), elapsed)
    y = load()(u, elapsed, p.A, p.B, p.C, None, None, None, False)
    return y if p.D is None else y + p.D[:, None] * p.u
