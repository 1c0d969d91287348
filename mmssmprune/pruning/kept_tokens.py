"""Which cells of a token sequence are still alive, per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssmprune.ops.derivatives import without_autocast


@dataclass(frozen=True)
class KeptTokens:
    """Ascending cell numbers ``index`` (B, K), int64, of the tokens kept out of ``length`` cells.

    A dense sequence has no KeptTokens at all, so it pays nothing.
    """

    index: Tensor
    length: int

    @property
    def _rows(self) -> Tensor:
        """Row numbers (B*K,) of the kept cells in a (B*L, ...) matrix."""
        batch = self.index.shape[0]
        offset = torch.arange(batch, device=self.index.device)[:, None] * self.length
        return (self.index + offset).flatten()

    def gather(self, full: Tensor) -> Tensor:
        """(B, L, C) -> (B, K, C): the kept cells in ascending order."""
        return full.flatten(0, 1).index_select(0, self._rows).unflatten(0, self.index.shape)

    def scatter(self, compact: Tensor, base: Tensor | None = None) -> Tensor:
        """(B, K, C) -> (B, L, C): kept cells at their places, every other cell as in ``base`` (B, L, C), or zero."""
        batch, _, channels = compact.shape
        if base is None:
            base = compact.new_zeros(batch, self.length, channels)
        # Under autocast the two may differ in precision; the wider one is kept.
        dtype = torch.promote_types(base.dtype, compact.dtype)
        full = base.to(dtype).flatten(0, 1).index_copy(0, self._rows, compact.to(dtype).flatten(0, 1))
        return full.unflatten(0, (batch, self.length))

    def subset(self, chosen: Tensor) -> KeptTokens:
        """Keep only the positions ``chosen`` (B, K') of the compact sequence, ascending."""
        return KeptTokens(self.index.gather(1, chosen), self.length)


@dataclass(frozen=True)
class Places:
    """Where tokens stand, both ways round, as `mmssmprune.ops.kept_conv` reads it.

    Attributes:
        cells: (B, M) the cell of each token.
        slot: (B, L) int32, the token at each cell, or -1.
    """

    cells: Tensor
    slot: Tensor

    @classmethod
    def of(cls, cells: Tensor, length: int) -> Places:
        """Tokens at ``cells`` (B, M), none of them twice, out of ``length``."""
        tokens = torch.arange(cells.shape[1], dtype=torch.int32, device=cells.device).expand_as(cells)
        return cls(cells, tokens.new_full((cells.shape[0], length), -1).scatter(1, cells, tokens))


def choose_tokens(score: Tensor, keep: int, protected: Tensor | None = None) -> Tensor:
    """Positions (B, keep) of the highest scores, ascending; ties go to the earlier position, so that runs repeat.

    Args:
        score: (B, K) importance, one image per row; rows never influence each other.
        keep: how many to choose.
        protected: (B, K) or (1, K) bool, tokens that are chosen whatever their score (class tokens).
    """
    if protected is not None:
        score = score.masked_fill(protected, torch.inf)
    return highest(score, keep).sort(dim=1).values


def highest(score: Tensor, count: int) -> Tensor:
    """Positions (B, count) of the highest scores (B, K), the highest first; ties go to the earlier position."""
    return score.argsort(dim=1, descending=True, stable=True)[:, :count]


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Pick tokens: x (B, K, C), index (B, M) -> (B, M, C). Whole rows are copied, which is what memory likes."""
    return KeptTokens(index, x.shape[1]).gather(x)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(..., M, N) of unit vectors a (..., M, C) and b (..., N, C); half precision takes those near 1 for equal."""
    with without_autocast(a.device):
        return a @ b.mT


@torch.no_grad()
def most_similar(x: Tensor, chosen: Tensor, spared: Tensor | None = None) -> Tensor:
    """For each token of x (B, K, C) which of the ``chosen`` (B, K') has the highest cosine to it; itself if chosen.

    ``spared`` (B, K') bool are chosen ones that stand for themselves only.
    """
    unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
    similarity = cosines(unit, gather_rows(unit, chosen))
    if spared is not None:
        similarity = similarity.masked_fill(spared.unsqueeze(1), -torch.inf)
    own_place = torch.arange(chosen.shape[1], device=x.device).expand_as(chosen)
    return similarity.argmax(-1).scatter(1, chosen, own_place)
