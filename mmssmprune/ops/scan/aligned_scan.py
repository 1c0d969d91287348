"""The scan over kept tokens that moves the state as if the pruned cells were still there."""

from __future__ import annotations

from torch import Tensor

from ..checks import FLOATS, check_kind
from .selective_scan import run_scan


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
    gap_delta = gap.to(delta_gap.dtype)[:, None] * delta_gap
    return run_scan(u, delta, A, B, C, D, None, None, gap_delta, False, backend)
