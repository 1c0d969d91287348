"""How much a token matters: scores from what a layer's mixer computed, in raster order.

Every function takes the layer's `LayerTrace` and the `TokenState` that went with it, and returns (B, K) float32 scores;
the highest are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .choices import Choices
from .token_state import TokenState

IMPORTANCE = Choices('importance')
register_importance = IMPORTANCE.register


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class RawDelta:
    """Step sizes of one set of scan parameters before softplus: ``raw`` (B, K, D) + ``bias`` (D,).

    ``at_zero`` (D,) is what that sum is at a token of zero features. Of several sets: one more axis S before them.
    """

    raw: Tensor
    bias: Tensor
    at_zero: Tensor

    @classmethod
    def stack(cls, sets: Sequence[RawDelta]) -> RawDelta:
        """Several sets as one."""
        return cls(*(torch.stack(same) for same in zip(*((d.raw, d.bias, d.at_zero) for d in sets), strict=True)))

    @property
    def sets(self) -> tuple[RawDelta, ...]:
        """Each set by itself."""
        if self.bias.dim() == 1:
            return (self,)
        return tuple(RawDelta(*one) for one in zip(self.raw, self.bias, self.at_zero, strict=True))

    def value(self) -> Tensor:
        """The step sizes (B, K, D), in float32 or wider."""
        return F.softplus(wide(self.raw + self.bias))


@dataclass(frozen=True)
class LayerTrace:
    """What a mixer shows of its work, every direction back in raster order.

    Attributes:
        y: (B, K, D) the gated SSM output, summed over directions.
        deltas: the step sizes, per set of scan parameters.
        directions: (B, K, D) each, what every direction adds to y; only where a choice needs ``'directions'``.
        A: (S, D, N), or (D, N) where all directions share it: the decay rates, negative; None where no scan has run.
    """

    y: Tensor
    deltas: tuple[RawDelta, ...]
    directions: tuple[Tensor, ...] = ()
    A: Tensor | None = None


@register_importance
def clip(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Mean over channels of max(0, y): the paper's importance (arXiv 2409.18962, section 4)."""
    return trace.y.float().clamp(min=0).mean(-1)


@register_importance(name='sum')
def total(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Mean over channels of y: the paper's ablation without clipping."""
    return trace.y.float().mean(-1)


@register_importance
def l1(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Mean over channels of |y|."""
    return trace.y.float().abs().mean(-1)


@register_importance
def l2(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Root of the mean over channels of y squared."""
    return trace.y.float().square().mean(-1).sqrt()


@register_importance
def delta(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Mean over channels of the step size: how much of a token the state takes in."""
    return torch.stack([delta.value().float().mean(-1) for delta in trace.deltas]).mean(0)


@register_importance(needs='directions')
def released(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """What the released code of arXiv 2409.18962 computes: the mean over channels of the second direction's output.

    It is not clipped, and it is read in the order in which that direction walks, so that in Vim the last token gets the
    score of the first. That code spares the class token in the first image of a batch only; here it is spared in each.
    """
    score = trace.directions[1].float().mean(-1)
    return score.gather(1, tokens.scan_order.order[..., 1, :].expand(score.shape))


@register_importance
def random(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Uniform noise from torch's global generator: what any score has to beat."""
    return torch.rand(trace.y.shape[:2], device=trace.y.device)


@register_importance
def grid(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Uniform subsampling: an ordered dither (Bayer) of the grid, so that every ratio keeps an even pattern."""
    row, column = tokens.cells // tokens.hw_shape[1], tokens.cells % tokens.hw_shape[1]
    threshold = torch.zeros_like(row, dtype=torch.float32)
    for bit in range(max(max(tokens.hw_shape) - 1, 1).bit_length()):
        # The lowest bits of the coordinates decide first: neighbours are far apart in the order.
        quadrant = 2 * ((row >> bit & 1) ^ (column >> bit & 1)) + (row >> bit & 1)
        threshold = threshold + quadrant / 4.0 ** (bit + 1)
    return -threshold.expand(trace.y.shape[:2])


@register_importance(needs='class_token')
def cls_similarity(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """Cosine of a token's y to the sum of the class tokens' y: the analogue of EViT (arXiv 2202.07800)."""
    return similarity_to_class(trace, tokens).float()


def similarity_to_class(trace: LayerTrace, tokens: TokenState) -> Tensor:
    """`cls_similarity` in float32 or wider."""
    y = wide(trace.y)
    of_class = tokens.is_protected.expand(y.shape[:2]).unsqueeze(-1)
    cls = (y * of_class).sum(1, keepdim=True)
    return F.cosine_similarity(y, cls, dim=-1)


@torch.no_grad()  # which tokens stay is a choice, which has no gradient
def score_tokens(importance: Callable, trace: LayerTrace, tokens: TokenState) -> Tensor:
    """The (B, K) scores of the tokens at hand by an importance.

    Raises:
        ValueError: it does not return one number per token.
    """
    score = importance(trace, tokens)
    expected = tuple(trace.y.shape[:2])
    if not isinstance(score, Tensor) or tuple(score.shape) != expected:
        name = getattr(importance, '__name__', type(importance).__name__)
        got = f'shape {tuple(score.shape)}' if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(f'importance {name!r} must return one score per token, (B, K) = {expected}, but gave {got}')
    return score
