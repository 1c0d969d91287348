"""How long the hidden state remembers, what alignment changes, and how far from the dense model pruned layers are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmssmprune.models import keep_ratio_set_to
from mmssmprune.models.backbones import PrunableBackbone
from mmssmprune.pruning import ALIGNMENT, LayerTrace

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
            output, on equal inputs; None before the first pruning, and without an alignment.
        distance: norm of the difference of that output from the dense model's at the same cells, relative to the
            latter; everything that the layers before it did is in it. 0 before the first pruning.
    """

    layer: int
    memory: tuple[float, ...]
    mean_gap: float
    change: float | None
    distance: float


@torch.no_grad()
def measure_state_memory(backbone: PrunableBackbone, images: Tensor) -> list[LayerMemory]:
    """Run a batch (B, 3, H, W), preprocessed, and look into every layer.

    Raises:
        ValueError: nothing is pruned.
    """
    if backbone.pruning is None:
        raise ValueError('give a pruned model; a dense one has no gaps')
    dense: list[Tensor] = []
    with keep_ratio_set_to(backbone, 1.0):
        _run(backbone, images, lambda layer, args, out: dense.append(out[-1].y))
    found: list[LayerMemory] = []
    _run(backbone, images, lambda layer, args, out: found.append(_look(len(found), layer, args, out[-1], dense)))
    return found


def _run(backbone: PrunableBackbone, images: Tensor, look: Callable[[nn.Module, tuple, tuple], None]) -> None:
    """A pass in evaluation mode; ``look`` is called with each layer, what it was given and what it returned."""
    hooks = [layer.register_forward_hook(look) for stage in backbone.stages for layer in stage.layers]
    training = backbone.training
    try:
        backbone.eval()(images)
    finally:
        backbone.train(training)
        for hook in hooks:
            hook.remove()


def _look(index: int, layer: nn.Module, args: tuple[Any, ...], trace: LayerTrace, dense: list[Tensor]) -> LayerMemory:
    *features, tokens = args
    if tokens.kept is None:
        return LayerMemory(index, _memory(trace), 0.0, None, 0.0)
    mean_gap, change = float(tokens.scan_order.gap.float().mean()), None
    if tokens.alignment is not ALIGNMENT['none']:
        # forward, not a call: hooks are not to see this pass
        change = _distance(trace.y, layer.forward(*features, replace(tokens, alignment=None))[-1].y)
    return LayerMemory(index, _memory(trace), mean_gap, change, _distance(trace.y, tokens.kept.gather(dense[index])))


def _distance(y: Tensor, other: Tensor) -> float:
    return float((y - other).norm() / other.norm())


def _memory(trace: LayerTrace) -> tuple[float, ...]:
    decays = trace.A.unflatten(0, (len(trace.deltas), -1)) if trace.A.dim() == 2 else trace.A
    rates = [delta.value().mean((0, 1))[:, None] * -A for delta, A in zip(trace.deltas, decays, strict=True)]
    cells = 1 / torch.stack(rates).float().flatten()
    return tuple(float(q) for q in torch.quantile(cells, torch.tensor(QUANTILES, device=cells.device)))
