"""How much a token matters: scores from what a layer's mixer computed, in raster order.

Every function takes the layer's `LayerTrace` and the `TokenState` that went with it, and returns (B, K) float32 scores;
the highest are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .token_state import TokenState


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class RawDelta:
    """Step sizes of one set of scan parameters before softplus: ``raw`` (B, K, D) + ``bias`` (D,).

    ``at_zero`` (D,) is what that sum is at a token of zero features.
    """

    raw: Tensor
    bias: Tensor
    at_zero: Tensor

    def value(self) -> Tensor:
        """The step sizes (B, K, D), in float32 or wider."""
        return F.softplus(wide(self.raw + self.bias))


@dataclass(frozen=True)
class LayerTrace:
    """What a mixer shows of its work, every direction back in raster order.

    Attributes:
        y: (B, K, D) the gated SSM output, summed over directions.
        deltas: the step sizes, per set of scan parameters.
    """

    y: Tensor
    deltas: tuple[RawDelta, ...]


Importance = Callable[[LayerTrace, TokenState], Tensor]


def clip(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Mean over channels of max(0, y): the paper's importance (arXiv 2409.18962, section 4)."""
    return trace.y.float().clamp(min=0).mean(-1)


def total(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Mean over channels of y: the paper's ablation without clipping."""
    return trace.y.float().mean(-1)


def l1(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Mean over channels of |y|."""
    return trace.y.float().abs().mean(-1)


def l2(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Root of the mean over channels of y squared."""
    return trace.y.float().square().mean(-1).sqrt()


def delta(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Mean over channels of the step size: how much of a token the state takes in."""
    return torch.stack([delta.value().float().mean(-1) for delta in trace.deltas]).mean(0)


def random(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Uniform noise from torch's global generator: what any score has to beat."""
    return torch.rand(trace.y.shape[:2], device=trace.y.device)


def grid(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Uniform subsampling: an ordered dither (Bayer) of the grid, so that every ratio keeps an even pattern."""
    row, column = tokens.cells // tokens.hw_shape[1], tokens.cells % tokens.hw_shape[1]
    threshold = torch.zeros_like(row, dtype=torch.float32)
    for bit in range(max(max(tokens.hw_shape) - 1, 1).bit_length()):
        # The lowest bits of the coordinates decide first: neighbours are far apart in the order.
        quadrant = 2 * ((row >> bit & 1) ^ (column >> bit & 1)) + (row >> bit & 1)
        threshold = threshold + quadrant / 4.0 ** (bit + 1)
    return -threshold.expand(trace.y.shape[:2])


def cls_similarity(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Cosine of a token's y to the sum of the class tokens' y: the analogue of EViT (arXiv 2202.07800)."""
    return similarity_to_class(trace, tokens).float()


def similarity_to_class(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """`cls_similarity` in float32 or wider."""
    y = wide(trace.y)
    of_class = tokens.is_protected.expand(y.shape[:2]).unsqueeze(-1)
    cls = (y * of_class).sum(1, keepdim=True)
    return F.cosine_similarity(y, cls, dim=-1)


IMPORTANCE: dict[str, Importance] = {
    'clip': clip,
    'sum': total,
    'l1': l1,
    'l2': l2,
    'delta': delta,
    'random': random,
    'grid': grid,
    'cls_similarity': cls_similarity,
}
NEEDS_CLASS_TOKEN = ('cls_similarity',)


def register_importance(function: Importance) -> Importance:
    """Decorator: make a function known to `pruning.importance` under its own name.

    Registering the same function again (a module imported twice) replaces it.

    Raises:
        ValueError: the name belongs to another function.
    """
    name, known = function.__name__, IMPORTANCE.get(function.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
        raise ValueError(
            f'importance {name!r} is taken by {known.__module__}.{known.__qualname__}; rename the function'
        )
    IMPORTANCE[name] = function
    return function


@torch.no_grad()  # a choice has no gradient
def score_tokens(name: str, trace: LayerTrace, tokens: TokenState) -> Tensor:
    """The (B, K) scores of the tokens at hand by the importance of this name.

    Raises:
        ValueError: the function does not return one number per token.
    """
    score = IMPORTANCE[name](trace, tokens)
    expected = tuple(trace.y.shape[:2])
    if not isinstance(score, Tensor) or tuple(score.shape) != expected:
        got = f'shape {tuple(score.shape)}' if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(f'importance {name!r} must return one score per token, (B, K) = {expected}, but gave {got}')
    return score
