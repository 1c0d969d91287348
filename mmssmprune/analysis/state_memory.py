"""How long the hidden state remembers, and what alignment changes: whether a model can gain from it at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmssmprune.models.backbones import PrunableBackbone
from mmssmprune.pruning import LayerTrace, TokenState

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class LayerMemory:
    """One layer's numbers.

    Attributes:
        layer: 0-based.
        memory: quantiles (`QUANTILES`) over channels and states of 1 / (mean delta * |A|): cells until a state has
            decayed to 37 %.
        mean_gap: pruned cells before a kept token, averaged over tokens and directions; 0 before the first pruning.
        change: norm of the change that alignment makes to the layer's gated SSM output, relative to the unaligned
            output, on equal inputs; None before the first pruning.
    """

    layer: int
    memory: tuple[float, ...]
    mean_gap: float
    change: float | None


@torch.no_grad()
def measure_state_memory(backbone: PrunableBackbone, images: Tensor) -> list[LayerMemory]:
    """Run a batch (B, 3, H, W), preprocessed, and look into every layer.

    Raises:
        ValueError: nothing is pruned, or the alignment is 'none', which there is nothing to compare with.
    """
    if backbone.pruning is None or backbone.pruner.names['alignment'] == 'none':
        raise ValueError("give a pruned model whose pruning.alignment is not 'none'")
    found: list[LayerMemory] = []

    def look(layer: nn.Module, args: tuple, out: tuple) -> None:
        *features, tokens = args
        found.append(_look(len(found), layer, features, tokens, out[-1]))

    hooks = [layer.register_forward_hook(look) for stage in backbone.stages for layer in stage.layers]
    training = backbone.training
    try:
        backbone.eval()(images)
    finally:
        backbone.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _look(index: int, layer: nn.Module, features: list[Any], tokens: TokenState, trace: LayerTrace) -> LayerMemory:
    mean_gap, change = 0.0, None
    if tokens.kept is not None:
        mean_gap = float(tokens.scan_order.gap.float().mean())
        # forward, not a call: hooks are not to see this pass
        unaligned = layer.forward(*features, replace(tokens, alignment=None))[-1].y
        change = float((trace.y - unaligned).norm() / unaligned.norm())
    return LayerMemory(index, _memory(trace), mean_gap, change)


def _memory(trace: LayerTrace) -> tuple[float, ...]:
    decays = trace.A.unflatten(0, (len(trace.deltas), -1)) if trace.A.dim() == 2 else trace.A
    rates = [delta.value().mean((0, 1))[:, None] * -A for delta, A in zip(trace.deltas, decays, strict=True)]
    cells = 1 / torch.stack(rates).float().flatten()
    return tuple(float(q) for q in torch.quantile(cells, torch.tensor(QUANTILES, device=cells.device)))
