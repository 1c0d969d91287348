"""Dense heads need every cell: how the compact sequence becomes a full map again."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .kept_tokens import KeptTokens


def hold(compact: Tensor, kept: KeptTokens, held: Tensor) -> Tensor:
    """A pruned cell shows the value it had when it was pruned: (B, K, C), held (B, L, C) -> (B, L, C)."""
    return kept.scatter(compact, held)


RESTORATION: dict[str, Callable[[Tensor, KeptTokens, Tensor], Tensor]] = {'hold': hold}
