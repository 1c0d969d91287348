"""What every scan backend receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..derivatives import gradients, without_autocast


@dataclass
class ScanInputs:
    """The operands of one selective scan, in one dtype.

    Shapes: ``u``, ``delta``, ``z``, ``gap_delta`` (B, D, L); ``A`` (D, N); ``B``, ``C`` (B, N, L); ``D``,
    ``delta_bias`` (D,). ``gap_delta`` is extra time that passes before each step: it decays the state like ``delta``
    does, and brings no input.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    gap_delta: Tensor | None
    delta_softplus: bool

    @property
    def tensors(self) -> list[Tensor | None]:
        """The nine tensor operands in signature order; gradients come back in this order."""
        return [self.u, self.delta, self.A, self.B, self.C, self.D, self.z, self.delta_bias, self.gap_delta]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The float64 of any operand, else float32: half precision overflows in a scan."""
        wide = any(t is not None and t.dtype == torch.float64 for t in self.tensors)
        return torch.float64 if wide else torch.float32

    def to(self, dtype: torch.dtype) -> ScanInputs:
        """Return the same operands with every tensor in ``dtype``."""
        cast = [None if t is None else t.to(dtype) for t in self.tensors]
        return ScanInputs(*cast, self.delta_softplus)

    def autograd_of(self, scan: Callable[[ScanInputs], Tensor], grad_out: Tensor) -> list[Tensor | None]:
        """Run a differentiable ``scan`` again, in float32 or wider; return its gradients in the order of `tensors`."""

        def run(*tensors: Tensor | None) -> list[Tensor]:
            with without_autocast(self.u.device):
                return [scan(ScanInputs(*tensors, self.delta_softplus).to(self.compute_dtype))]

        return gradients(run, self.tensors, [grad_out])


def fold_gap(p: ScanInputs, scan: Callable[[ScanInputs], Tensor]) -> Tensor:
    """Call a ``scan`` that knows one delta only: a gap goes into delta and u. Differentiable if ``scan`` is."""
    if p.gap_delta is None:
        return scan(p)
    delta = p.delta if p.delta_bias is None else p.delta + p.delta_bias[:, None]
    if p.delta_softplus:
        delta = F.softplus(delta)
    elapsed = delta + p.gap_delta
    # Where no time passes at all nothing is added either, so any finite ratio will do.
    u = p.u * delta / torch.where(elapsed == 0, torch.ones_like(elapsed), elapsed)
    y = scan(ScanInputs(u, elapsed, p.A, p.B, p.C, None, None, None, None, False))
    if p.D is not None:
        y = y + p.D[:, None] * p.u
    return y if p.z is None else y * F.silu(p.z)
