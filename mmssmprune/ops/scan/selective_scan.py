"""The scan along one direction, channels first as Mamba has it: plain, and over kept tokens with aligned states."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import FLOATS, check_kind
from .inputs import ScanInputs
from .operator import run


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """Selective scan with the semantics of Mamba-1 (arXiv 2312.00752, algorithm 2; mamba-ssm's ``selective_scan_fn``).

        delta = softplus(delta + delta_bias)                          (each if asked)
        h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,   h_0 = 0
        y_t = C_t h_t + D u_t,   y_t *= SiLU(z_t)                     (D and z if given)

    Args:
        u, delta, z: (B, D, L) input, step size and gate.
        A: (D, N) decay rates, negative.
        B, C: (B, N, L) input and output vectors.
        D, delta_bias: (D,) skip weight and bias of the step size.
        delta_softplus: pass ``delta + delta_bias`` through softplus.
        backend: ``'naive'``, ``'torch'``, ``'cpp'``, ``'mamba_ssm'``, ``'triton'``, or None for what the environment
            variable MMSSMPRUNE_SCAN_BACKEND names, and without it for the fastest that runs here.

    Returns:
        (B, D, L) in the dtype of ``u``. It is computed in float32, or in float64 where an operand is. Inside autocast
        the operands are cast to float32 and so is the result, because half precision overflows here. It can be
        differentiated to any order, in forward mode and by torch.func; all but the first gradient in reverse mode is
        plain torch, as slow as the naive backend whichever one was chosen.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or cannot run these tensors.
    """
    return run_scan(u, delta, A, B, C, D, z, delta_bias, None, delta_softplus, backend)


def aligned_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    gap: Tensor,
    delta_gap: Tensor,
    backend: str | None = None,
) -> Tensor:
    """Selective scan over K kept tokens with hidden state alignment (arXiv 2409.18962, section 4).

    A pruned cell brings no input, but time passes there: with ``g`` pruned cells just before kept token ``q``

        h_q = exp((delta_q + g delta_gap_q) A) h_prev + delta_q B_q u_q,   y_q = C_q h_q + D u_q

    which equals the scan over all cells with the pruned inputs at zero and ``delta_gap`` as their delta.

    Args:
        u: (B, D, K) kept tokens in scan order.
        delta: (B, D, K) their step sizes, already positive (after bias and softplus).
        A: (D, N) decay rates, negative.
        B, C: (B, N, K) input and output vectors.
        D: (D,) skip weight.
        gap: (B, K) number of pruned cells between a kept token and the kept one before it in scan order; before the
            first token there is no state yet, so its gap changes nothing. Any integer or float dtype.
        delta_gap: (D,) or (B, D, K) step size of each of those cells.
        backend: as in `selective_scan`.

    Returns:
        (B, D, K) in the dtype of ``u``. Gradients reach every operand, ``delta_gap`` and a float ``gap`` included.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the backend is unknown or cannot run these tensors.
    """
    batch, _, length = u.shape if u.dim() == 3 else (None, None, None)
    if tuple(gap.shape) != (batch, length):
        raise ValueError(f'gap must be (B, K) = {(batch, length)} for u {tuple(u.shape)}, got {tuple(gap.shape)}')
    check_kind('gap', gap, u.device, integer=gap.dtype not in FLOATS)
    check_kind('delta_gap', delta_gap, u.device)
    if delta_gap.dim() == 1:
        delta_gap = delta_gap[:, None]
    elif delta_gap.shape != u.shape:
        raise ValueError(f'delta_gap must be (D,) or (B, D, K) = {tuple(u.shape)}, got {tuple(delta_gap.shape)}')
    if delta_gap.shape[-2] != u.shape[1]:
        raise ValueError(f'delta_gap must have D = {u.shape[1]} channels as u does, got {delta_gap.shape[-2]}')
    gap_time = gap.to(delta_gap.dtype)[:, None] * delta_gap
    return run_scan(u, delta, A, B, C, D, None, None, gap_time, False, backend)


def run_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    gap_time: Tensor | None,
    delta_softplus: bool,
    backend: str | None,
) -> Tensor:
    """Check the operands and run them as the one direction of a scan; ``gap_time`` (B, D, L) is time without input."""
    operands = dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, gap_time=gap_time)
    _check(operands)
    u, delta, B, C, z, gap_time = (None if t is None else t.transpose(1, 2) for t in (u, delta, B, C, z, gap_time))
    sets = [None if t is None else t[None] for t in (u, delta, A, B, C, D, delta_bias, gap_time)]
    u, delta, A, B, C, D, delta_bias, gap_time = sets
    walk = dict(direction_B=None, delta_gap=None, order=None, move=None, gap=None, directions=1, width=0, lines=False)
    options = dict(delta_softplus=delta_softplus, permute_params=True, gap_time=gap_time)
    p = ScanInputs(u, delta, A, B, C, D, z, delta_bias, **walk, **options)
    device_type = u.device.type
    if _has_autocast(device_type) and torch.is_autocast_enabled(device_type):
        p = p.wide()
    return run(p, backend).transpose(1, 2)


def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)  # meta has none


_has_autocast._dynamo_marked_constant = True  # torch 2.4 cannot trace it


def _check(operands: dict[str, Tensor | None]) -> None:
    u, A = operands['u'], operands['A']
    if u.dim() != 3 or A.dim() != 2:
        raise ValueError(f'u must be (B, D, L) and A (D, N), got {tuple(u.shape)} and {tuple(A.shape)}')
    batch, dim, length = sequence = tuple(u.shape)
    d_state = A.shape[1]
    state = (batch, d_state, length)
    expected = dict.fromkeys(('u', 'delta', 'z', 'gap_time'), sequence) | dict.fromkeys(('D', 'delta_bias'), (dim,))
    expected |= {'A': (dim, d_state), 'B': state, 'C': state}
    for name, tensor in operands.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(
                f'{name} must be {expected[name]} for u {sequence} and A {tuple(A.shape)}, got {tuple(tensor.shape)}'
            )
        check_kind(name, tensor, u.device)
