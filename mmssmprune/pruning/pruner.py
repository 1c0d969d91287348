"""The `pruning` dict of a backbone's config, and the two moments it acts: where tokens die and where they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .alignment import ALIGNMENT, NEEDS_CALIBRATION
from .calibration import DeltaRecorder
from .conv_fill import CONV_FILL
from .importance import IMPORTANCE, NEEDS_CLASS_TOKEN, LayerTrace, score_tokens
from .kept_tokens import KeptTokens, gather_rows, most_similar
from .plan import PLAN_KEYS, PlanTarget, PrunePlan, plan_from_config
from .reduction import REDUCTION
from .restoration import REMEMBERING, RESTORATION
from .scan_path import ScanPath
from .token_state import TokenState

REGIMES = ('progressive', 'per_stage')
CHOICES = {
    'reduction': tuple(REDUCTION),
    'importance': IMPORTANCE,  # grows with `register_importance`
    'alignment': tuple(ALIGNMENT),
    'conv_fill': CONV_FILL,
    'restoration': tuple(RESTORATION),
    'regime': REGIMES,
}
DEFAULTS = {
    'reduction': 'prune',
    'importance': 'clip',
    'alignment': 'carry',
    'conv_fill': 'zero',
    'restoration': 'follow',
    'regime': 'progressive',
}
# How fast a calibrated delta follows once the first batches are averaged.
MOMENTUM = 0.05


class TokenPruner(nn.Module):
    """One `pruning` dict, checked, with the parameters and buffers that its choices need (see `make_state`).

    Without a dict (``plan`` None) nothing is ever pruned. A plan given as a ``target`` keeps all tokens until
    `set_keep_ratio` is told the ratio that meets it.

    Raises:
        ValueError: an unknown key or value, a missing key, or a plan that `make_plan` refuses.
    """

    def __init__(self, config: Mapping[str, Any] | None, num_layers: int, has_class_token: bool = False):
        super().__init__()
        if config is not None and not isinstance(config, Mapping):
            raise ValueError(f'pruning must be a dict, or None for the dense model, got {config!r}')
        self.num_layers = num_layers
        self.config: dict[str, Any] = dict(config or {})
        self.plan: PrunePlan | None = None
        self.target: PlanTarget | None = None
        names = {key: self.config.get(key, DEFAULTS[key]) for key in CHOICES}
        self.reduction, self.importance, self.alignment = names['reduction'], names['importance'], names['alignment']
        self.conv_fill, self.restoration, self.regime = names['conv_fill'], names['restoration'], names['regime']
        if config is None:
            return
        self._check_keys(names, has_class_token)
        self.plan, self.target = plan_from_config(config, num_layers)

    def _check_keys(self, names: Mapping[str, Any], has_class_token: bool) -> None:
        known = (*PLAN_KEYS, *CHOICES)
        for key in self.config:
            if key not in known:
                raise ValueError(f'pruning has an unknown key {key!r}; the keys are {", ".join(known)}')
        for key, name in names.items():
            if name not in tuple(CHOICES[key]):
                raise ValueError(f'pruning.{key} is {name!r}; the names are {", ".join(CHOICES[key])}')
        if self.importance in NEEDS_CLASS_TOKEN and not has_class_token:
            raise ValueError(f'pruning.importance {self.importance!r} needs a class token, and this model has none')

    def make_state(self, embed_dims: int, d_inner: int, param_sets: int) -> None:
        """Register what the choices keep in the state dict; everything starts at zero, so no random number is drawn.

        - ``mask_token`` (1, 1, C): shown at pruned cells by that restoration, besides the position embedding.
        - ``stored_delta`` (num_layers, param_sets, d_inner): of the alignments `calibrated` (a buffer) and `learned`
          (a parameter).
        - ``calibrated_batches``: how many batches went into it.
        """
        if self.plan is None:
            return
        if self.restoration == 'mask_token':
            self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        if self.calibrates:
            stored = torch.zeros(self.num_layers, param_sets, d_inner)
            if self.alignment == 'learned':
                self.stored_delta = nn.Parameter(stored)
            else:
                self.register_buffer('stored_delta', stored)
            self.register_buffer('calibrated_batches', torch.zeros((), dtype=torch.long))

    @property
    def calibrates(self) -> bool:
        """Whether the alignment wants calibration passes."""
        return self.plan is not None and self.alignment in NEEDS_CALIBRATION

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """Change the ratios of an existing plan; raises ValueError where nothing is pruned or a ratio is wrong."""
        if self.plan is None:
            raise ValueError('this backbone has no pruning, so it has no keep_ratio; add a pruning=dict(...) to it')
        self.plan = self.plan.at(keep_ratio)
        self.config['keep_ratio'] = keep_ratio

    def start(self, path: ScanPath, hw_shape: tuple[int, int], protected: Sequence[int] = ()) -> TokenState:
        """The state before the first layer: every cell alive."""
        return TokenState.dense(path, hw_shape, protected, self.alignment)

    def prune(
        self,
        layer: int,
        streams: tuple[Tensor, ...],
        tokens: TokenState,
        trace: LayerTrace,
        blank: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        """Drop or fuse tokens where the plan says so; this is the line where tokens die.

        Args:
            layer: the 0-based layer that has just run.
            streams: (B, K, C) each, the features that the next layer reads; it reads their sum.
            tokens: the state that goes with them.
            trace: what the layer's mixer computed, from which importance is read.
            blank: as in `restore`, for cells that come back (``regime='per_stage'``).

        Returns:
            The streams and the state for layer ``layer + 1``.
        """
        if self.plan is not None and layer in self.plan.layers:
            score = score_tokens(self.importance, trace, tokens)
            if tokens.reopened:
                streams, tokens, trace, score = self._reopen(streams, tokens, trace, score, blank)
            streams, tokens = self._reduce(layer, streams, tokens, trace, score)
        return streams, self._for_layer(layer + 1, tokens)

    def _reduce(
        self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        alive, spared = streams[0].shape[1], len(tokens.protected)
        keep = self.plan.keep_after(layer, alive - spared) + spared
        if keep == alive:
            return streams, tokens
        held = self._held(streams, tokens)
        if self.regime == 'per_stage':
            column = score.unsqueeze(-1)
            tokens = replace(tokens, score=tokens.kept.scatter(column, tokens.score) if tokens.kept else column)
        reduced = REDUCTION[self.reduction](streams, tokens, trace, score, keep)
        kept = KeptTokens(reduced.chosen, alive) if tokens.kept is None else tokens.kept.subset(reduced.chosen)
        owner = reduced.into
        if owner is None and self.restoration == 'follow':
            owner = most_similar(sum(streams), reduced.chosen)
        if owner is not None and tokens.owner is not None:
            owner = owner.gather(1, tokens.owner)
        tokens = replace(tokens.keeping(kept), held=held, owner=owner)
        return reduced.streams, tokens.losing(sum(held)) if self.conv_fill == 'hold' else tokens

    def _held(self, streams: tuple[Tensor, ...], tokens: TokenState) -> tuple[Tensor, ...]:
        """Every position of every stream: the tokens at hand as they are, the others as they are remembered."""
        shown = self.reduction == 'prune' and self.restoration in REMEMBERING
        if not shown and self.conv_fill != 'hold':
            return ()
        if tokens.kept is None:
            return streams
        remember = RESTORATION[self.restoration if self.restoration in REMEMBERING else 'hold']
        return tuple(remember(x, tokens, held, None) for x, held in zip(streams, tokens.held, strict=True))

    def _reopen(
        self,
        streams: tuple[Tensor, ...],
        tokens: TokenState,
        trace: LayerTrace,
        score: Tensor,
        blank: Tensor | None,
    ) -> tuple[tuple[Tensor, ...], TokenState, LayerTrace, Tensor]:
        """Make every position a candidate again: features restored, scores as they were last seen."""
        # The position embedding travels in the last stream, so only that one shows the blank.
        last = len(streams) - 1
        full = tuple(self.restore(x, tokens, i, blank if i == last else None) for i, x in enumerate(streams))
        score = tokens.kept.scatter(score.unsqueeze(-1), tokens.score).squeeze(-1)
        y = trace.y if self.reduction == 'prune' else gather_rows(trace.y, tokens.owner)
        dense = TokenState.dense(tokens.path, tokens.hw_shape, tokens.protected, self.alignment)
        return full, dense, replace(trace, y=y), score

    def tapped(self, tokens: TokenState) -> TokenState:
        """What a tap (an output or an interaction) changes: all cells may come back where the regime says so."""
        if self.regime == 'per_stage' and tokens.kept is not None:
            return replace(tokens, reopened=True)
        return tokens

    def _for_layer(self, layer: int, tokens: TokenState) -> TokenState:
        """Hand the layer its own stored delta."""
        if not self.calibrates or tokens.kept is None or layer >= self.num_layers:
            return tokens
        return replace(tokens, stored_delta=self.stored_delta[layer])

    def restore(self, x: Tensor, tokens: TokenState, stream: int = 0, blank: Tensor | None = None) -> Tensor:
        """(B, K, C) -> (B, L, C): every cell again; this is the line where tokens return.

        Cells whose token was fused into another show that one; ``restoration`` decides what the others show, and
        ``blank`` (1, L, C) is what ``mask_token`` shows there.
        """
        if tokens.kept is None:
            return x
        if self.reduction != 'prune':
            return gather_rows(x, tokens.owner)
        held = tokens.held[stream] if tokens.held else None
        return RESTORATION[self.restoration](x, tokens, held, blank)

    def recorder(self) -> DeltaRecorder:
        """What takes this pruner's place in a calibration pass."""
        return DeltaRecorder(self.plan, self.importance, self.regime == 'per_stage', self.num_layers)

    @torch.no_grad()
    def forget_calibration(self) -> None:
        """Start the averages anew."""
        self.stored_delta.zero_()
        self.calibrated_batches.zero_()

    @torch.no_grad()
    def take_in(self, recorder: DeltaRecorder) -> None:
        """Average what a calibration pass measured into ``stored_delta``; a pass in which nothing was pruned is none.

        The plain mean of the first batches, then a running one in training, where the weights move; the mean of all
        otherwise.
        """
        if all(mean is None for mean in recorder.means):
            return
        weight = 1 / (int(self.calibrated_batches) + 1)
        if self.training:
            weight = max(weight, MOMENTUM)
        for layer, mean in enumerate(recorder.means):
            if mean is not None:
                target = mean
                if self.alignment == 'learned':
                    # The inverse of softplus, written so that large values do not overflow.
                    target = mean + torch.log(-torch.expm1(-mean)) - recorder.at_zero[layer]
                self.stored_delta[layer].lerp_(target.to(self.stored_delta.dtype), weight)
        self.calibrated_batches += 1
