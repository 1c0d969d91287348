"""Read the keep ratios of a built model, and change them for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from .backbones.base import PrunableBackbone, pruned_backbones, set_keep_ratio

KeepRatio = float | Sequence[float]


def get_keep_ratios(model: nn.Module) -> list[tuple[PrunableBackbone, tuple[float, ...]]]:
    """Every pruned backbone inside ``model`` (wrappers of any kind included) with one ratio per pruning layer.

    Raises:
        ValueError: nothing in the model is pruned.
    """
    return [(backbone, backbone.pruner.plan.keep_ratios) for backbone in pruned_backbones(model)]


def restore_keep_ratios(ratios: Sequence[tuple[PrunableBackbone, tuple[float, ...]]]) -> None:
    """Put back what `get_keep_ratios` returned."""
    for backbone, own in ratios:
        # One number where all are equal, so that the backbone's `pruning` dict reads as it did in the config.
        backbone.set_keep_ratio(own[0] if len(set(own)) == 1 else list(own))


@contextmanager
def keep_ratio_set_to(model: nn.Module, keep_ratio: KeepRatio) -> Iterator[None]:
    """Prune every backbone inside ``model`` by ``keep_ratio`` within the block; then each has its own ratios again.

    They come back after an exception too, one of a wrong ``keep_ratio`` included.

    Args:
        model: a backbone, a detector or segmentor around it, or a wrapper of one (DDP, test-time augmentation).
        keep_ratio: share of the living tokens that stays, in (0, 1]; one number, or one per pruning layer.

    Raises:
        ValueError: nothing in the model is pruned, or ``keep_ratio`` is wrong.
    """
    own = get_keep_ratios(model)
    try:
        set_keep_ratio(model, keep_ratio)
        yield
    finally:
        restore_keep_ratios(own)
