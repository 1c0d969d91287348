"""The `pruning` dict of a backbone's config, and the two moments it acts: where tokens die and where they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .alignment import ALIGNMENT
from .conv_fill import CONV_FILL
from .importance import IMPORTANCE, NEEDS_CLASS_TOKEN, LayerTrace
from .kept_tokens import KeptTokens, choose_tokens, gather_rows
from .plan import PrunePlan, layers_from, make_keep_ratios, make_plan
from .restoration import RESTORATION
from .scan_path import ScanPath
from .token_state import TokenState

CHOICES = {
    'importance': tuple(IMPORTANCE),
    'alignment': tuple(ALIGNMENT),
    'conv_fill': CONV_FILL,
    'restoration': tuple(RESTORATION),
}
DEFAULTS = {'importance': 'clip', 'alignment': 'carry', 'conv_fill': 'zero', 'restoration': 'hold'}

EXAMPLE = 'pruning=dict(layers=[5, 11, 17], keep_ratio=0.7)'


def _layers_of(config: Mapping[str, Any], num_layers: int) -> Sequence[int]:
    """The pruning layers, given as ``layers`` or as ``start`` and ``every``."""
    spaced = [key for key in ('start', 'every') if key in config]
    if 'layers' in config and not spaced:
        return config['layers']
    if len(spaced) == 2 and 'layers' not in config:
        return layers_from(config['start'], config['every'], num_layers)
    raise ValueError(f"pruning needs 'layers', or 'start' and 'every' instead, e.g. {EXAMPLE}")


@dataclass
class TokenPruner:
    """One `pruning` dict, checked. Without a dict (``plan`` None) nothing is ever pruned."""

    plan: PrunePlan | None = None
    importance: str = DEFAULTS['importance']
    alignment: str = DEFAULTS['alignment']
    conv_fill: str = DEFAULTS['conv_fill']
    restoration: str = DEFAULTS['restoration']
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None, num_layers: int, has_class_token: bool = False
    ) -> TokenPruner:
        """Check a `pruning` dict against a backbone of ``num_layers`` layers, with or without a class token.

        Raises:
            ValueError: an unknown key or value, a missing key, or a plan that `make_plan` refuses.
        """
        if config is None:
            return cls()
        known = ('layers', 'start', 'every', 'keep_ratio', *CHOICES)
        for key in config:
            if key not in known:
                raise ValueError(f'pruning has an unknown key {key!r}; the keys are {", ".join(known)}')
        if 'keep_ratio' not in config:
            raise ValueError(f"pruning needs 'keep_ratio', e.g. {EXAMPLE}")
        names = {key: config.get(key, DEFAULTS[key]) for key in CHOICES}
        for key, name in names.items():
            if name not in CHOICES[key]:
                raise ValueError(f'pruning.{key} is {name!r}; the names are {", ".join(CHOICES[key])}')
        if names['importance'] in NEEDS_CLASS_TOKEN and not has_class_token:
            raise ValueError(f'pruning.importance {names["importance"]!r} needs a class token, and this model has none')
        plan = make_plan(_layers_of(config, num_layers), config['keep_ratio'], num_layers)
        return cls(plan, **names, config=dict(config))

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """Change the ratios of an existing plan; raises ValueError where nothing is pruned or a ratio is wrong."""
        if self.plan is None:
            raise ValueError('this backbone has no pruning, so it has no keep_ratio; add a pruning=dict(...) to it')
        ratios = make_keep_ratios(keep_ratio, len(self.plan.layers))
        self.plan = replace(self.plan, keep_ratios=ratios)
        self.config['keep_ratio'] = keep_ratio

    def start(self, path: ScanPath, hw_shape: tuple[int, int], protected: Sequence[int] = ()) -> TokenState:
        """The state before the first layer: every cell alive."""
        return TokenState.dense(path, hw_shape, protected, self.alignment)

    def prune(
        self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState, trace: LayerTrace
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        """Drop the least important tokens where the plan says so; this is the line where tokens die.

        Args:
            layer: the 0-based layer that has just run.
            streams: (B, K, C) each, the features that the next layer reads.
            tokens: the state that goes with them.
            trace: what the layer's mixer computed, from which importance is read.
        """
        if self.plan is None or layer not in self.plan.layers:
            return streams, tokens
        alive = streams[0].shape[1]
        spared = len(tokens.protected)
        keep = self.plan.keep_after(layer, alive - spared) + spared
        if keep == alive:
            return streams, tokens
        with torch.no_grad():  # a choice has no gradient
            chosen = choose_tokens(IMPORTANCE[self.importance](trace, tokens), keep, tokens.is_protected)
        held = self._held(streams, tokens) if self.restoration == 'hold' else ()
        kept = KeptTokens(chosen, alive) if tokens.kept is None else tokens.kept.subset(chosen)
        streams = tuple(gather_rows(x, chosen) for x in streams)
        return streams, replace(tokens, kept=kept, held=held, walk=tokens.path.over(kept))

    @staticmethod
    def _held(streams: tuple[Tensor, ...], tokens: TokenState) -> tuple[Tensor, ...]:
        """Every position of every stream: the tokens at hand as they are, the others as they were when pruned."""
        if tokens.kept is None:
            return streams
        return tuple(tokens.kept.scatter(x, held) for x, held in zip(streams, tokens.held, strict=True))

    def restore(self, x: Tensor, tokens: TokenState, stream: int = 0, blank: Tensor | None = None) -> Tensor:
        """(B, K, C) -> (B, L, C): every cell again; this is the line where tokens return.

        ``blank`` (1, L, C) is what ``mask_token`` shows at pruned cells.
        """
        if tokens.kept is None:
            return x
        held = tokens.held[stream] if tokens.held else None
        return RESTORATION[self.restoration](x, tokens, held, blank)
