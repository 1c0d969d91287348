"""How much a token matters: scores from what a layer's mixer computed, in raster order.

Every function takes ``y`` (B, K, D), the gated SSM output summed over directions, each direction already back in
raster order, and returns (B, K) float32 scores; the highest are kept.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def clip(y: Tensor) -> Tensor:
    """Mean over channels of max(0, y): the paper's importance (arXiv 2409.18962, section 4)."""
    return y.detach().float().clamp(min=0).mean(-1)


IMPORTANCE: dict[str, Callable[[Tensor], Tensor]] = {'clip': clip}
