"""Solving a pruning plan for its target, when a backbone is built."""

from __future__ import annotations

from torch import nn

from mmssmprune._mmengine import print_log
from mmssmprune.pruning.plan import MIN_KEEP_RATIO, TOLERANCE, PlanTarget, solve_keep_ratio

from .flops import count_on_meta, on_meta


class TargetOutOfReach(ValueError):
    """No keep ratio meets a target with these layers."""


def solve_for_target(backbone: nn.Module, target: PlanTarget) -> None:
    """Set the uniform keep ratio with which a backbone meets ``target``, and log it.

    FLOPs are counted on a copy without numbers, so that nothing of the backbone changes but its ratio.

    Args:
        backbone: a `PrunableBackbone`, built to the end, with a plan.
        target: what to reach.

    Raises:
        TargetOutOfReach: no keep ratio meets it.
        ValueError: the backbone does not take images of ``target.input_shape``.
    """
    layers = list(backbone.pruner.plan.layers)
    trial = _Trial(backbone, target)
    where = f'after layers {layers}' + (f' at {_size(target)}' if target.input_shape else '')
    ratio = 1.0 if target.is_dense else _solve(trial, target, where)
    backbone.set_keep_ratio(ratio)
    print_log(
        f'pruning.{target.name} {target.value:g}: keep_ratio {ratio:g} {where} reaches {trial.reach(ratio):.4f}',
        logger='current',
    )


def _size(target: PlanTarget) -> str:
    return f'{target.input_shape[0]}x{target.input_shape[1]}'


def _solve(trial: _Trial, target: PlanTarget, where: str) -> float:
    limit = trial.reach(MIN_KEEP_RATIO)
    beyond, word = target.value - limit, 'most'
    if target.name == 'tokens':
        beyond, word = -beyond, 'least'
    if beyond > TOLERANCE:
        raise TargetOutOfReach(
            f'pruning.{target.name} {target.value:g} cannot be reached by pruning {where}; the {word} is {limit:.3g}'
        )
    return solve_keep_ratio(trial.reach, target.value, trial.share)


class _Trial:
    """What a backbone reaches at one keep ratio or another."""

    def __init__(self, backbone: nn.Module, target: PlanTarget) -> None:
        self.pruner = backbone.pruner
        self.reopened = self.pruner.reopened_after(backbone.output_layers)
        self.input_shape = target.input_shape
        self.reach = self.share if target.name == 'tokens' else self.flops_reduction
        self._flops: dict[tuple[int, ...], int] = {}
        if self.input_shape is None:
            return
        self.model = on_meta(backbone)
        try:
            self._dense_tokens = self.tokens(1.0)
            self._dense = 0 if target.name == 'tokens' else self._flops_of_dense(backbone)
        except ValueError as error:
            raise ValueError(f'pruning.input_shape {_size(target)} does not suit this backbone: {error}') from error

    def tokens(self, keep_ratio: float) -> tuple[int, ...]:
        """Tokens that each layer processes."""
        self.model.set_keep_ratio(keep_ratio)
        return tuple(self.model.tokens_per_layer(self.input_shape))

    def share(self, keep_ratio: float) -> float:
        """Mean over the layers of the share of the dense tokens that they process, class tokens included."""
        if self.input_shape is None:
            return self.pruner.plan.at(keep_ratio).token_share(self.pruner.numbers, self.reopened)
        tokens = self.tokens(keep_ratio)
        return sum(n / dense for n, dense in zip(tokens, self._dense_tokens, strict=True)) / len(tokens)

    def flops(self, keep_ratio: float) -> int:
        """FLOPs of one image; they depend on nothing but the numbers of tokens, and a count takes about a second."""
        tokens = self.tokens(keep_ratio)
        if tokens not in self._flops:
            self._flops[tokens] = count_on_meta(self.model, self.input_shape)
        return self._flops[tokens]

    def _flops_of_dense(self, backbone: nn.Module) -> int:
        """Without the scores, which cost something at a ratio of 1 too."""
        dense = on_meta(backbone)
        dense.pruner.plan = None
        return count_on_meta(dense, self.input_shape)

    def flops_reduction(self, keep_ratio: float) -> float:
        """Share of the dense FLOPs that is saved."""
        return 1 - self.flops(keep_ratio) / self._dense
