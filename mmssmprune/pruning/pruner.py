"""The `pruning` dict of a backbone's config, and the two moments it acts: where tokens die and where they return."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from .alignment import ALIGNMENT
from .choices import Choices
from .conv_fill import CONV_FILL
from .importance import IMPORTANCE, LayerTrace, score_tokens
from .kept_tokens import KeptTokens, gather_rows, most_similar
from .plan import PLAN_KEYS, PlanTarget, PrunePlan, plan_from_config
from .reduction import REDUCTION, Reduced
from .restoration import FLOOR, RESTORATION
from .scan_fill import SCAN_FILL
from .scan_order import ScanOrder
from .stage import Stage, default_layers
from .token_state import TokenState
from .units import choose_units

# Pruned tokens stay away, or are candidates again after every output.
REGIMES = ('progressive', 'per_output')
REGIME_ALIASES = {'per_stage': 'per_output'}
KINDS: dict[str, Choices] = {
    'reduction': REDUCTION,
    'importance': IMPORTANCE,
    'alignment': ALIGNMENT,
    'conv_fill': CONV_FILL,
    'scan_fill': SCAN_FILL,
    'restoration': RESTORATION,
}
# Every key that takes a name, with its names.
CHOICES = {**KINDS, 'regime': REGIMES}
# What was measured to keep most (docs/findings.md).
DEFAULTS = {
    'reduction': 'merge_neighbours',
    'importance': 'grid',
    'alignment': 'carry',
    'conv_fill': 'leader',
    'scan_fill': None,  # each backbone states its own
    'restoration': 'flow',
    'regime': 'progressive',
}
PRUNING_KEYS = (*PLAN_KEYS, *DEFAULTS)  # all that a `pruning` dict may have
# Of a dict that names one of these keys: it asks for tokens that are chosen by scores.
SCORE_KEYS = ('importance', 'unit')
DEFAULT_BY_SCORE = 'prune_merge'
# What a choice owns stood in the pruner itself before there were stages.
OLD_NAMES = {'mask_token': 'stages.0.restoration.mask_token'}


class Observer(Protocol):
    """What is told of a forward pass as it happens; nothing that it does changes the pass."""

    def started(self, tokens: TokenState) -> None:
        """A stage begins with all cells alive."""

    def ran(self, layer: int, count: int) -> None:
        """A layer has run on ``count`` tokens."""

    def reduced(
        self, layer: int, before: TokenState, after: TokenState, score: Tensor, reduced: Reduced | None
    ) -> None:
        """Tokens became fewer, or None did; ``score`` (B, K) is the importance of those before."""

    def restored(self, full: tuple[Tensor, ...], tokens: TokenState) -> None:
        """All cells are shown, by streams (B, L, C)."""


class StageChoices(nn.Module):
    """The choices of one stage, with the parameters and buffers that some of them own; None where it asks for none.

    Args:
        names: that of each kind.
        stage: the stage.
        layers: after which layers the plan prunes.
        is_last: whether there is no stage after it.
    """

    def __init__(self, names: Mapping[str, str], stage: Stage, layers: Collection[int], is_last: bool):
        super().__init__()
        first, last = stage.numbers[0], stage.numbers[-1]
        # What is scored last is for the stage after it, which then begins pruned.
        self.prunes = any(first - 1 <= layer < last + is_last for layer in layers)
        for kind in reversed(KINDS):  # the order of the parameters, by which optimizers of older trainings know them
            is_used = any(layer in stage.numbers for layer in layers) if kind == 'importance' else self.prunes
            setattr(self, kind, KINDS[kind].make(names[kind], stage) if is_used else None)


class TokenPruner(nn.Module):
    """One `pruning` dict, checked, with the choices that it names.

    Without a dict (``plan`` None) nothing is ever pruned. A plan given as a ``target`` keeps all tokens until
    `set_keep_ratio` is told the ratio that meets it.

    Args:
        config: the dict, or None.
        stages: those of the backbone.
        has_class_token: whether its sequence holds one.
        restores: whether maps are read at all; otherwise nothing is remembered for one.

    Raises:
        ValueError: an unknown key or value, a missing key, or a plan that `make_plan` refuses.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None,
        stages: Sequence[Stage],
        has_class_token: bool = False,
        restores: bool = True,
    ):
        super().__init__()
        if config is not None and not isinstance(config, Mapping):
            raise ValueError(f'pruning must be a dict, or None for the dense model, got {config!r}')
        self.config: dict[str, Any] = dict(config or {})
        self.numbers = tuple(stage.numbers for stage in stages)
        self.plan: PrunePlan | None = None
        self.target: PlanTarget | None = None
        self.observers: list[Observer] = []
        by_score = {'reduction': DEFAULT_BY_SCORE} if any(key in self.config for key in SCORE_KEYS) else {}
        of_backbone = {'scan_fill': stages[0].scan_fill} if stages else {}
        given = {key: name for key, name in self.config.items() if key in DEFAULTS}
        self.names = DEFAULTS | of_backbone | by_score | given
        self.names['regime'] = REGIME_ALIASES.get(self.names['regime'], self.names['regime'])
        if not restores:
            self.names['restoration'] = FLOOR
        if config is None:
            return
        self._check_keys(has_class_token, all(stage.along_sequence for stage in stages))
        self.plan, self.target = plan_from_config(config, self.num_layers, default_layers(stages))
        if has_class_token and any(layer in self.plan.layers for layer in self.stage_ends):
            raise ValueError('pruning.layers names the last layer of a stage, which needs stages without class tokens')
        if self.plan.unit != (1, 1) and not self.needs('score', 'reduction'):
            names = ' or '.join(map(repr, REDUCTION.needing('score')))
            raise ValueError(
                f'pruning.unit ranks whole blocks by their scores, and reduction {self.names["reduction"]!r} goes by '
                f'something else; leave it out or set reduction to {names}'
            )
        self.stages = nn.ModuleList(
            StageChoices(self.names, stage, self.plan.layers, is_last=stage is stages[-1]) for stage in stages
        )

    def _check_keys(self, has_class_token: bool, along_sequence: bool) -> None:
        for key in self.config:
            if key not in PRUNING_KEYS:
                raise ValueError(f'pruning has an unknown key {key!r}; the keys are {", ".join(PRUNING_KEYS)}')
        for kind, choices in KINDS.items():
            choices.check(self.names[kind])
            if self.needs('class_token', kind) and not has_class_token:
                raise ValueError(f'pruning.{kind} {self.names[kind]!r} needs a class token, and this model has none')
            if self.needs('sequence', kind) and not along_sequence:
                raise ValueError(
                    f'pruning.{kind} {self.names[kind]!r} closes ranks along a sequence, and this model convolves '
                    'over the grid'
                )
        if self.names['regime'] not in REGIMES:
            raise ValueError(f'pruning.regime is {self.names["regime"]!r}; the names are {", ".join(REGIMES)}')

    def needs(self, need: str, *kinds: str) -> bool:
        """Whether a choice at work, of one of these kinds or of any, has a need (see `choices.NEEDS`)."""
        return any(need in KINDS[kind].needs_of(self.names[kind]) for kind in kinds or KINDS)

    def to_be_trained(self) -> dict[str, list[str]]:
        """Choices at work that need training, as ``kind 'name'``, and the names of their parameters in this module."""
        return {
            f'{kind} {name!r}': [key for key, _ in self.named_parameters() if key.split('.')[2] == kind]
            for kind, name in self.names.items()
            if self.plan is not None and kind in KINDS and 'training' in KINDS[kind].needs_of(name)
        }

    @property
    def num_layers(self) -> int:
        """Layers of all stages."""
        return sum(map(len, self.numbers))

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """Change the ratios of an existing plan; raises ValueError where nothing is pruned or a ratio is wrong."""
        if self.plan is None:
            raise ValueError('this backbone has no pruning, so it has no keep_ratio; add a pruning=dict(...) to it')
        self.plan = self.plan.at(keep_ratio)
        self.config['keep_ratio'] = keep_ratio

    def reopened_after(self, output_layers: Collection[int]) -> Collection[int]:
        """The layers after which all cells are candidates again: those with an output, where the regime says so."""
        return output_layers if self.names['regime'] == 'per_output' else ()

    def tokens_per_layer(self, grids: Sequence[tuple[int, int]], output_layers: Collection[int]) -> list[int]:
        """Tokens that each layer processes, class tokens left out, on the grid (h, w) of each stage."""
        plan, reopened = self.plan or PrunePlan((), ()), self.reopened_after(output_layers)
        stages = zip(self.numbers, grids, strict=True)
        return [n for numbers, hw_shape in stages for n in plan.tokens_on_grid(numbers, hw_shape, reopened)]

    def start(
        self,
        stage: int,
        order: ScanOrder,
        hw_shape: tuple[int, int],
        protected: Sequence[int] = (),
        pos_embed: Tensor | None = None,
    ) -> TokenState:
        """The state before the first layer of a stage: every cell alive."""
        alignment = None if self.plan is None else self.stages[stage].alignment
        choices = dict(alignment=alignment, closes_ranks=self.plan is not None and self.needs('sequence'))
        tokens = TokenState.dense(order, hw_shape, protected, stage=stage, pos_embed=pos_embed, **choices)
        for observer in self.observers:
            observer.started(tokens)
        return self._for_layer(self.numbers[stage][0], tokens)

    def prune(
        self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        """Drop or fuse tokens where the plan says so; this is the line where tokens die.

        Args:
            layer: the 0-based layer that has just run.
            streams: (B, K, C) each, the features that the next layer reads; it reads their sum.
            tokens: the state that goes with them.
            trace: what the layer's mixer computed, from which importance is read.

        Returns:
            The streams and the state for layer ``layer + 1``.
        """
        for observer in self.observers:
            observer.ran(layer, trace.y.shape[1])
        if self.plan is not None and layer in self.plan.layers:
            score = score_tokens(self.stages[tokens.stage].importance, trace, tokens)
            if layer in self.stage_ends:
                tokens = replace(tokens, score=_of_every_position(score, tokens))  # for `begin`
            else:
                if tokens.reopened:
                    streams, tokens, trace, score = self._reopen(streams, tokens, trace, score)
                streams, tokens = self._reduce(layer, streams, tokens, trace, score)
        return streams, self._for_layer(layer + 1, tokens)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The last layer of each stage but the last: a pruning there takes place where the next stage begins."""
        return tuple(numbers[-1] for numbers in self.numbers[:-1])

    def begin(
        self, streams: tuple[Tensor, ...], tokens: TokenState, before: TokenState
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        """Prune before the first layer of a stage, where the plan prunes after the last one of the stage before.

        Args:
            streams: (B, L, C) each, all cells.
            tokens: their state, from `start`.
            before: the state at the end of the stage before; its scores decide, averaged over the cells of this grid.
        """
        layer = self.numbers[tokens.stage][0] - 1
        if self.plan is None or layer not in self.plan.layers:
            return streams, tokens
        scores = before.score.transpose(1, 2).unflatten(2, before.hw_shape)
        score = F.adaptive_avg_pool2d(scores, tokens.hw_shape).flatten(1)
        # No layer has run on these tokens: where a reduction compares outputs it compares the features themselves.
        streams, tokens = self._reduce(layer, streams, tokens, LayerTrace(sum(streams), ()), score)
        return streams, self._for_layer(layer + 1, tokens)

    def _reduce(
        self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        alive = streams[0].shape[1]
        kept_units, cells = self.plan.keep_units(layer, tokens.hw_shape, tokens.alive_units)
        keep = cells + len(tokens.protected)
        if keep == alive:
            for observer in self.observers:
                observer.reduced(layer, tokens, tokens, score, None)
            return streams, tokens
        before = tokens
        if self.names['regime'] == 'per_output':
            column = score.unsqueeze(-1)
            tokens = replace(tokens, score=tokens.kept.scatter(column, tokens.score) if tokens.kept else column)
        ranks = score if self.plan.unit == (1, 1) else choose_units(score, tokens, self.plan.unit, kept_units)
        reduced = self.stages[tokens.stage].reduction(streams, tokens, trace, ranks, keep)
        tokens = replace(self._left(streams, tokens, reduced), alive_units=kept_units)
        for observer in self.observers:
            observer.reduced(layer, before, tokens, score, reduced)
        return reduced.streams, tokens

    def _left(self, streams: tuple[Tensor, ...], tokens: TokenState, reduced: Reduced) -> TokenState:
        """The state of what a reduction leaves of ``tokens``, whose features were ``streams``."""
        choices, alive = self.stages[tokens.stage], streams[0].shape[1]
        remembered, fused = self._remembered(streams, tokens), reduced.into is not None
        kept = KeptTokens(reduced.chosen, alive) if tokens.kept is None else tokens.kept.subset(reduced.chosen)
        if reduced.leader is not None:  # a kept one that took others up moves from there
            remembered = tuple(kept.scatter(x, h) for x, h in zip(reduced.streams, remembered, strict=False))
        leader = reduced.into
        if leader is None and self.needs('leader'):
            leader = self._leader(streams, tokens, reduced)
        if leader is not None and tokens.leader is not None:
            leader = leader.gather(1, tokens.leader)
        # Where tokens were fused every position shows its leader.
        tokens = replace(tokens.keeping(kept), remembered=() if fused else remembered, leader=leader, fused=fused)
        tokens = choices.conv_fill(tokens)
        return replace(tokens, input_weight=choices.scan_fill(tokens))

    def _leader(self, streams: tuple[Tensor, ...], tokens: TokenState, reduced: Reduced) -> Tensor:
        """(B, K) which of the remaining tokens resembles each one most; class tokens stand for themselves only."""
        if reduced.leader is not None:
            return reduced.leader
        spared = None
        if tokens.protected:
            spared = tokens.is_protected.expand(streams[0].shape[:2]).gather(1, reduced.chosen)
        return most_similar(sum(streams), reduced.chosen, spared)

    def _remembered(self, streams: tuple[Tensor, ...], tokens: TokenState) -> tuple[Tensor, ...]:
        """Every position of every stream: the tokens at hand as they are, the others as they are remembered."""
        if tokens.fused or not self.needs('remembered'):
            return ()
        if tokens.kept is None:
            return streams
        restoration = self.stages[tokens.stage].restoration
        return tuple(restoration(x, tokens, h, None) for x, h in zip(streams, tokens.remembered, strict=True))

    def _reopen(
        self, streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace, score: Tensor
    ) -> tuple[tuple[Tensor, ...], TokenState, LayerTrace, Tensor]:
        """Make every position a candidate again: features restored, scores as they were last seen."""
        score = tokens.kept.scatter(score.unsqueeze(-1), tokens.score).squeeze(-1)
        y = gather_rows(trace.y, tokens.leader) if tokens.fused else trace.y
        return self._shown(streams, tokens), tokens.all_alive(), replace(trace, y=y), score

    def after_output(self, tokens: TokenState) -> TokenState:
        """What an output, or an adapter's look, changes: all cells may come back where the regime says so."""
        if self.names['regime'] == 'per_output' and tokens.kept is not None:
            return replace(tokens, reopened=True)
        return tokens

    def _for_layer(self, layer: int, tokens: TokenState) -> TokenState:
        """Tell the layer what it has to show."""
        if self.plan is None or layer not in self.numbers[tokens.stage]:
            return tokens
        wants_directions = layer in self.plan.layers and self.needs('directions')
        if wants_directions == tokens.wants_directions:
            return tokens
        return replace(tokens, wants_directions=wants_directions)

    def restore(self, streams: tuple[Tensor, ...], tokens: TokenState) -> tuple[Tensor, ...]:
        """(B, K, C) each -> (B, L, C): every cell again; this is the line where tokens return.

        Cells whose token was fused into another show that one; ``restoration`` decides what the others show. The
        streams are the first ones of those that `prune` gets; the last given shows the position embedding where the
        restoration needs it.
        """
        full = streams if tokens.kept is None else self._shown(streams, tokens)
        for observer in self.observers:
            observer.restored(full, tokens)
        return full

    def _shown(self, streams: tuple[Tensor, ...], tokens: TokenState) -> tuple[Tensor, ...]:
        if tokens.fused:
            return tuple(gather_rows(x, tokens.leader) for x in streams)
        restoration = self.stages[tokens.stage].restoration
        remembered = tokens.remembered or (None,) * len(streams)
        positions = (*[None] * (len(streams) - 1), tokens.pos_embed)
        # The first ones only may be asked for, so there may be more of what is remembered.
        return tuple(restoration(x, tokens, h, p) for x, h, p in zip(streams, remembered, positions, strict=False))

    def end_stage(self, streams: tuple[Tensor, ...], tokens: TokenState) -> tuple[tuple[Tensor, ...], TokenState]:
        """Every cell alive again, as the strided convolution between two stages needs it."""
        full = self.restore(streams, tokens)
        return full, tokens if tokens.kept is None else replace(tokens.all_alive(), score=tokens.score)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """As torch's; `OLD_NAMES` are understood."""
        for old, new in OLD_NAMES.items():
            if prefix + old in state_dict:
                state_dict[prefix + new] = state_dict.pop(prefix + old)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _of_every_position(score: Tensor, tokens: TokenState) -> Tensor:
    """(B, K) scores of the tokens at hand -> (B, L, 1): others as last seen, or else as the lowest of their image."""
    score = score.unsqueeze(-1)
    if tokens.kept is None:
        return score
    lowest = score.amin(1, keepdim=True).expand(-1, tokens.length, -1)
    return tokens.kept.scatter(score, lowest if tokens.score is None else tokens.score)
