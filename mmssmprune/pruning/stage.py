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
        first: number of the first layer; layers are counted from 0 through all stages.
        along_sequence: whether all its convolutions run along the sequence, none over the grid.
        scan_fill: what its scans take in for pruned cells unless a `pruning` dict says it; how long their states last
            decides what suits them (docs/findings.md).
    """

    layers: Sequence[Any]
    embed_dims: int
    d_inner: int
    first: int = 0
    along_sequence: bool = False
    scan_fill: str = 'leader'

    @property
    def numbers(self) -> range:
        """Numbers of its layers."""
        return range(self.first, self.first + len(self.layers))


def default_layers(stages: Sequence[Stage]) -> list[int]:
    """Where a target prunes unless told: of several stages the deepest one and those after it begin pruned; a single
    one is pruned once, after its first layer. Stages of 2, 2, 8 and 2 layers -> [3, 11]; 24 layers -> [0].

    Of the plans that were compared (docs/findings.md) these kept most, and they reach the furthest.
    """
    deepest = max(range(len(stages)), key=lambda i: len(stages[i].numbers))
    if deepest > 0:
        return [stage.numbers[0] - 1 for stage in stages[deepest:]]
    numbers = stages[0].numbers
    return [numbers[0]] if len(numbers) > 1 else []
