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
    """Where a target prunes unless told: once, after the first quarter of the layers; 24 layers -> [5].

    Of several stages the deepest begins pruned: 2, 2, 8 and 2 layers -> [3]. After a quarter of it too little would be
    left to save. Of the plans for one stage that were compared (docs/findings.md) the first quarter kept most.
    """
    numbers = max((stage.numbers for stage in stages), key=len)
    if numbers and numbers[0]:
        return [numbers[0] - 1]
    return [numbers[max(len(numbers) // 4 - 1, 0)]] if len(numbers) > 1 else []
