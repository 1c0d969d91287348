"""How scores learn from the task: a gate at every kept token, open in value, through which gradients reach its score.

The straight-through gate of SViT (arXiv 2306.07050) and DyVM (arXiv 2504.04787), for a number of tokens that is given:
after each layer a kept token has moved by the layer's update, and its gate stands before that update. Where more of it
would lower the loss the score rises; against the mean score of its image, since only the order decides who stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gate:
    """Of the tokens at hand: ``opening`` (B, K), in (0, 1), and their features ``since`` (B, K, C) a layer ago."""

    opening: Tensor
    since: Tensor

    @classmethod
    def of(cls, score: Tensor, chosen: Tensor, streams: tuple[Tensor, ...]) -> Gate:
        """For the ``chosen`` (B, K') of the tokens with a ``score`` (B, K), whose features are now ``streams``."""
        opening = torch.sigmoid(score - score.mean(1, keepdim=True))
        return cls(opening.gather(1, chosen), sum(streams).detach())

    def passed(self, streams: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Gate]:
        """The streams (B, K, C) after a layer, unchanged in value, and the gate for the next one."""
        now = sum(streams).detach()
        slope = (self.opening - self.opening.detach()).unsqueeze(-1) * (now - self.since)
        return (streams[0] + slope.to(streams[0].dtype), *streams[1:]), replace(self, since=now)
