"""The reference: a loop over time that anyone can check against the equations. Any float dtype, any device, slow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import Sequences


def scan(p: Sequences) -> Tensor:
    """Run h_t = exp((delta_t + gap_time_t) A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t + D u_t; returns y (B, D, L).

    Differentiable by autograd in every input.
    """
    delta = p.delta if p.delta_bias is None else p.delta + p.delta_bias[:, None]
    if p.delta_softplus:
        delta = F.softplus(delta)
    elapsed = delta if p.gap_time is None else delta + p.gap_time
    state = p.u.new_zeros(*p.u.shape[:2], p.A.shape[1])  # [B, D, N]
    steps = []
    # Unbound once: indexing inside the loop would make backward quadratic in the length.
    for u, dt, time, B, C in zip(*(x.unbind(-1) for x in (p.u, delta, elapsed, p.B, p.C)), strict=True):
        state = torch.exp(time[:, :, None] * p.A) * state + (dt * u)[:, :, None] * B[:, None]
        steps.append((state * C[:, None]).sum(-1))
    y = torch.stack(steps, dim=-1) if steps else torch.zeros_like(p.u)
    return y if p.D is None else y + p.D[:, None] * p.u
