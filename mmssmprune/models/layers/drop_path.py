"""Stochastic depth. mmcv's class does the same, but the plain backbones import without mmcv."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, drop a branch for whole images and scale up the rest (arXiv 1603.09382); else pass it on.

    Args:
        drop_prob: probability that an image's branch is dropped, in [0, 1).
    """

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.drop_prob == 0:
            return x
        kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept / (1 - self.drop_prob)
