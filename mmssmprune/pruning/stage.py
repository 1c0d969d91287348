"""What pruning has to know about the parts of a backbone: runs of layers of one width over one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """Layers that see one grid; PlainMamba and Vim have one stage, hierarchical backbones several.

    Attributes:
        layers: the modules, in the order in which they run.
        embed_dims: channels C of their tokens.
        d_inner: channels D of their scans.
        param_sets: sets S of scan parameters in a layer: 1 where all directions share one, else one per direction.
        first: number of the first layer; layers are counted from 0 through all stages.
    """

    layers: Sequence[Any]
    embed_dims: int
    d_inner: int
    param_sets: int = 1
    first: int = 0

    @property
    def numbers(self) -> range:
        """Numbers of its layers."""
        return range(self.first, self.first + len(self.layers))


def default_layers(stages: Sequence[Stage]) -> list[int]:
    """Where a target prunes unless told: once, before the deepest stage begins, or after its first quarter where it is
    the first one; 24 layers -> [5], stages of 2, 2, 8 and 2 -> [3].

    Of the plans that were compared (docs/findings.md) it was never behind, and it reaches the furthest.
    """
    numbers = max((stage.numbers for stage in stages), key=len)
    if numbers[0] > 0:
        return [numbers[0] - 1]
    return [numbers[max(len(numbers) // 4 - 1, 0)]] if len(numbers) > 1 else []
