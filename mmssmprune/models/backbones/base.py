"""What the pruned backbones share: the `pruning` config, the dial, and strict loading of pretrained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssmprune._mmengine import WEIGHT_INITIALIZERS, BaseModule
from mmssmprune._values import flag, is_list, is_whole, whole
from mmssmprune.checkpoints.grids import GRID, recorded_grid, stored_grid, with_grid
from mmssmprune.models.layers.patch_embed import resize_pos_embed
from mmssmprune.models.plan_target import solve_for_target
from mmssmprune.pruning import ScanOrder, Stage, TokenPruner, TokenState


def resolve_arch(
    arch: str | Mapping[str, Any],
    zoo: Mapping[str, dict],
    overrides: Mapping[str, Any],
    needed: Mapping[str, Callable[[str, Any], Any]] = MappingProxyType({'embed_dims': whole, 'num_layers': whole}),
) -> dict[str, Any]:
    """Return the settings of ``arch`` (a name in ``zoo`` in any case, or a dict) with ``overrides`` that are not None.

    ``needed`` are those that have to be there, and what checks them.

    Raises:
        ValueError: an unknown name, or a dict or overrides that leave a setting open or name an unknown one.
    """
    known = next(iter(zoo.values())).keys()
    if isinstance(arch, str):
        if arch.lower() not in zoo:
            raise ValueError(f'arch is {arch!r}; the names are {", ".join(zoo)} (any case), or give a dict')
        settings = dict(zoo[arch.lower()])
    elif arch is None or isinstance(arch, Mapping):
        settings = dict(arch or {})
    else:
        raise ValueError(f'arch must be a name ({", ".join(zoo)}) or a dict, got {arch!r}')
    settings.update({key: value for key, value in overrides.items() if value is not None})
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ValueError(f'arch has an unknown key {unknown[0]!r}; the keys are {", ".join(known)}')
    missing = [key for key in needed if key not in settings]
    if missing:
        raise ValueError(f'arch needs {missing[0]!r}; give a name ({", ".join(zoo)}) or all settings')
    return settings | {key: check(key, settings[key]) for key, check in needed.items()}


def resolve_out_indices(out_indices: int | Sequence[int], num_layers: int, what: str = 'layer') -> tuple[int, ...]:
    """Ascending 0-based layer numbers, negative ones counted from the end; raises ValueError beyond the depth.

    ``what`` is counted: layers, or stages.
    """
    given = [out_indices] if is_whole(out_indices) else list(out_indices) if is_list(out_indices) else []
    if not given or not all(map(is_whole, given)):
        raise ValueError(f'out_indices must be a {what} number or a list of such, got {out_indices!r}')
    resolved = [int(i) + num_layers if i < 0 else int(i) for i in given]
    for i, layer in zip(given, resolved, strict=True):
        if not 0 <= layer < num_layers:
            raise ValueError(f'out_indices names {what} {i}, but this backbone has {what}s 0 to {num_layers - 1}')
    if resolved != sorted(set(resolved)):
        raise ValueError(f'out_indices must be ascending without repeats, got {given}')
    return tuple(resolved)


def drop_path_rates(rate: float, num_layers: int) -> list[float]:
    """Stochastic depth that grows linearly from 0 at the first layer to ``rate`` at the last."""
    return [rate * i / max(num_layers - 1, 1) for i in range(num_layers)]


def _checked_init_cfg(init_cfg: Any) -> Any:
    """What mmengine takes as ``init_cfg``; raises ValueError for anything else."""
    parts = init_cfg if isinstance(init_cfg, (list, tuple)) else [] if init_cfg is None else [init_cfg]
    for part in parts:
        kind = part.get('type') if isinstance(part, Mapping) else None
        if not isinstance(kind, type) and (not isinstance(kind, str) or WEIGHT_INITIALIZERS.get(kind) is None):
            raise ValueError(
                "init_cfg must be a dict such as dict(type='Pretrained', checkpoint=...), with a type that mmengine "
                f'knows, got {part!r}'
            )
        if kind == 'Pretrained':
            prefix = part.get('prefix')
            if not isinstance(part.get('checkpoint'), str) or not (prefix is None or isinstance(prefix, str)):
                raise ValueError(
                    f"init_cfg of type 'Pretrained' needs checkpoint=PATH, and may have prefix=TEXT, got {part!r}"
                )
    return init_cfg


class FeatureInfo(list):
    """One dict per map, with its channels ``num_chs`` and its stride ``reduction`` in pixels."""

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [info['num_chs'] for info in self]

    def reduction(self) -> list[int]:
        """Pixels of the image per cell of each map."""
        return [info['reduction'] for info in self]


class PrunableBackbone(BaseModule):
    """Base of the backbones: the loop over stages and layers, in which tokens die and return.

    A backbone states its `stages`, the token grids of an image (`grids_of`), how an image becomes tokens (`embed`), how
    scans walk over a grid (`scan_order`), and what is returned of an output layer (`output`). Its constructor ends with
    `set_pruning`, once all modules are there; that of a subclass which adds modules ends with it again.

    Args:
        with_cp: recompute each layer in backward instead of storing it.
        init_cfg: as in mmengine; ``type='Pretrained'`` loads by key and reports every mismatch by name.
        out_type: what forward returns, one of the class's ``out_types``.

    ``out_indices`` (ascending) are the layers whose output is returned, or, where a class says so, the stages.
    """

    # Modules that a classification checkpoint does not have and that start from their own initialisation.
    optional_in_checkpoint: tuple[str, ...] = ('pruner.',)
    # How the keys start that only a file may have, for a model of another kind; None: any, which are logged.
    unused_in_checkpoint: tuple[str, ...] | None = None
    # 'featmap' is a map per out_index; the other names, as in mmpretrain, are one vector per image for a classifier.
    out_types: tuple[str, ...] = ('featmap',)
    # The grid (h, w) of `pos_embed`; None where a backbone has none.
    pos_hw: tuple[int, int] | None = None

    def __init__(self, with_cp: bool = False, init_cfg: dict | None = None, out_type: str = 'featmap'):
        super().__init__(_checked_init_cfg(init_cfg))
        if out_type not in self.out_types:
            raise ValueError(
                f'out_type is {out_type!r}; the names of {type(self).__name__} are {", ".join(self.out_types)}'
            )
        self.with_cp = flag('with_cp', with_cp)
        self.out_type = out_type
        self.pruner = TokenPruner(None, ())

    def set_pruning(self, pruning: Mapping[str, Any] | None) -> None:
        """Prune as a `pruning` dict says from now on; None is the dense model. See `TokenPruner` for the keys.

        A target is solved for here, so all modules have to be there; FLOPs are those of the whole backbone.

        Raises:
            ValueError: the dict does not suit this backbone, or its target is out of reach.
        """
        has_class_token = self.num_extra_tokens > 0
        restores = not self.returns_vector or len(self.stages) > 1  # between stages every cell returns
        self.pruner = TokenPruner(pruning, self.stages, has_class_token, restores)
        if not restores and self.pruner.config.get('restoration') is not None:
            raise ValueError(
                f'pruning.restoration is about maps, and out_type {self.out_type!r} returns none; leave it out'
            )
        if self.pruner.target is not None:
            solve_for_target(self, self.pruner.target)

    @property
    def stages(self) -> Sequence[Stage]:
        """The runs of layers over one grid each."""
        raise NotImplementedError

    def grids_of(self, hw: tuple[int, int]) -> list[tuple[int, int]]:
        """The token grid (h, w) of each stage for an image of (H, W) pixels."""
        raise NotImplementedError

    @property
    def cell_places(self) -> list[tuple[int, float]]:
        """Per stage: pixels of the image from cell to cell, and from its border to the middle of the first cell."""
        embed = self.patch_embed
        return [(getattr(embed, 'stride', embed.patch_size), embed.patch_size / 2)]

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> the tokens (B, L, C) of the first stage, class tokens included, and its grid (h, w)."""
        raise NotImplementedError

    def scan_order(self, hw_shape: tuple[int, int], device: torch.device) -> ScanOrder:
        """How scans walk over the sequence on the grid ``hw_shape``."""
        raise NotImplementedError

    def output(self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState) -> Tensor:
        """What is returned of an output layer, whose tokens are ``streams`` (B, K, C)."""
        raise NotImplementedError

    def leave(self, number: int, streams: tuple[Tensor, ...], hw_shape: tuple[int, int]) -> tuple[Tensor, tuple]:
        """From all tokens (B, L, C) of stage ``number`` to those of the next one and its grid."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> per out_index what `output` returns: a map (B, C, h, w), or as ``out_type`` says."""
        outs, stages, returned, tokens = [], self.stages, self.returned_layers, None
        x, hw_shape = self.embed(images)
        for number, stage in enumerate(stages):
            before = tokens
            streams, tokens = self.enter(number, x, hw_shape)  # every cell alive
            if before is not None:
                streams, tokens = self.pruner.begin(streams, tokens, before)  # a stage may begin pruned
            for layer in stage.numbers:
                streams, tokens = self.run_layer(stage, layer, streams, tokens)  # where tokens die
                if layer in returned:
                    outs.append(self.output(layer, streams, tokens))  # where they return
            if number + 1 < len(stages):
                x, hw_shape = self.leave(number, streams, hw_shape)
        return tuple(outs)

    def enter(self, number: int, x: Tensor, hw_shape: tuple[int, int]) -> tuple[tuple[Tensor, ...], TokenState]:
        """The streams that the layers of stage ``number`` read, and the state of their tokens, all alive."""
        needs_positions = self.pruner.plan is not None and self.pruner.needs('pos_embed')
        pos_embed = self.pos_embed_of(hw_shape) if needs_positions and number == 0 else None
        if needs_positions and pos_embed is None:
            pos_embed = x.new_zeros(1, 1, x.shape[-1])
        order = self.scan_order(hw_shape, x.device)
        return (x,), self.pruner.start(number, order, hw_shape, self.class_token_places(hw_shape), pos_embed)

    def run_layer(
        self, stage: Stage, layer: int, streams: tuple[Tensor, ...], tokens: TokenState
    ) -> tuple[tuple[Tensor, ...], TokenState]:
        """Run a layer of a stage, by its number, and prune after it; returns what the next one reads."""
        *streams, trace = self._run(stage.layers[layer - stage.first], *streams, tokens)
        streams, tokens = self.pruner.prune(layer, tuple(streams), tokens, trace)
        if layer in self.pruner.stage_ends:
            return self.pruner.end_stage(streams, tokens)
        return streams, self.pruner.after_output(tokens) if layer in self.output_layers else tokens

    def _run(self, layer: nn.Module, *args: Any) -> tuple[Tensor, ...]:
        """Run a layer, with gradient checkpointing if asked."""
        if self.with_cp and self.training:
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)

    @property
    def num_layers(self) -> int:
        """Layers of all stages."""
        return sum(len(stage.layers) for stage in self.stages)

    @property
    def returns_vector(self) -> bool:
        """Whether forward returns one vector (B, C) per image, and nothing is restored."""
        return self.out_type != 'featmap'

    def _check_vector(self, num_layers: int, final_norm: bool) -> None:
        """Refuse settings that a vector, which is read from the normalised output of the last layer, has no use for."""
        if not self.returns_vector:
            return
        if self.out_indices != (num_layers - 1,):
            raise ValueError(
                f'out_type {self.out_type!r} is read after the last layer, so out_indices must be -1, '
                f'got {list(self.out_indices)}'
            )
        if not final_norm:
            raise ValueError(f'out_type {self.out_type!r} is read after the final norm: set final_norm=True')

    @property
    def pruning(self) -> dict | None:
        """The `pruning` dict at work, or None for a dense model."""
        return self.pruner.config or None

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """Prune by other ratios from now on; raises ValueError for a dense model or a ratio outside (0, 1]."""
        self.pruner.set_keep_ratio(keep_ratio)

    def tokens_per_layer(self, hw: tuple[int, int]) -> list[int]:
        """Tokens that each layer processes for an image of (H, W) pixels, class tokens included."""
        per_layer = self.pruner.tokens_per_layer(self.grids_of(hw), self.output_layers)
        return [n + self.num_extra_tokens for n in per_layer]

    def dense_tokens_per_layer(self, grids: Sequence[tuple[int, int]]) -> list[int]:
        """Tokens that each layer would process if none were pruned, on the grids (h, w) of the stages."""
        per_stage = zip(self.stages, grids, strict=True)
        return [height * width + self.num_extra_tokens for stage, (height, width) in per_stage for _ in stage.layers]

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and strides of the maps that forward returns, as timm's ``features_only`` models have it."""
        maps = [
            {'num_chs': stage.embed_dims, 'reduction': stride}
            for stage, (stride, _) in zip(self.stages, self.cell_places, strict=True)
            for layer in stage.numbers
            if layer in self.returned_layers
        ]
        return FeatureInfo(maps)

    @property
    def returned_layers(self) -> tuple[int, ...]:
        """Layers whose output is returned."""
        return self.out_indices

    @property
    def output_layers(self) -> tuple[int, ...]:
        """Layers after which all cells are read, whether or not they are returned."""
        return self.returned_layers

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay, and the number of depths, as in mmpretrain.

        Depth 0 is what comes before the layers (patches, positions, class tokens, the state of the pruning), i + 1 is
        layer i, and the last is what comes after or beside them, any name without ``prefix`` included.
        """
        last = self.num_layers + 1
        if not param_name.startswith(prefix):
            return last, last + 1
        own = param_name[len(prefix) :]
        layers = {id(layer): stage.first + i for stage in self.stages for i, layer in enumerate(stage.layers)}
        for name, module in self.named_modules():
            if id(module) in layers and own.startswith(f'{name}.'):
                return layers[id(module)] + 1, last + 1
        first = own.partition('.')[0]
        is_input = first in ('patch_embed', 'pos_embed', 'pruner') or first.startswith('cls_token')
        return (0 if is_input else last), last + 1

    @property
    def num_extra_tokens(self) -> int:
        """Class tokens in the sequence, which belong to no cell of the grid (mmpretrain's name for them)."""
        return 0

    def class_token_places(self, hw_shape: tuple[int, int]) -> tuple[int, ...]:
        """Where the class tokens stand in the sequence over the grid ``hw_shape``."""
        return ()

    def pos_embed_of(self, hw_shape: tuple[int, int]) -> Tensor | None:
        """Position embedding (1, L, C) of the first stage's sequence over a grid, or None where there is none."""
        return None

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Fit the position embedding among a checkpoint's backbone weights to this model's grid.

        Args:
            state: names without prefix; where it comes from a file of this package, its metadata records the grid.

        Raises:
            ValueError: the grid of the embedding cannot be known (see `stored_grid`).
        """
        pos_embed = state.get('pos_embed')
        if self.pos_hw is None or not isinstance(pos_embed, Tensor) or pos_embed.dim() != 3:
            return state
        class_rows = self._class_rows_of(state)
        hw_shape = stored_grid(pos_embed.shape[1] - class_rows, recorded_grid(state), self.pos_hw)
        with torch.no_grad():
            fitted = self._fitted(pos_embed, hw_shape, class_rows)
        return with_grid({**state, 'pos_embed': fitted}, self.pos_hw)

    def _class_rows_of(self, state: Mapping[str, Tensor]) -> int:
        """How many rows of a checkpoint's position embedding belong to class tokens."""
        return 0

    def _fitted(self, pos_embed: Tensor, hw_shape: tuple[int, int], class_rows: int) -> Tensor:
        """A position embedding of the grid ``hw_shape`` for this model's; the same object where they agree."""
        return resize_pos_embed(pos_embed, hw_shape, self.pos_hw, class_rows)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """As torch's; the metadata records the grid of the position embedding."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.pos_hw is not None and hasattr(destination, '_metadata'):
            destination._metadata.setdefault(prefix[:-1], {})[GRID] = self.pos_hw

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """As torch's, after `adapt_state`; without a record, weights of as many cells go in as they are."""
        state = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        pos_embed, grid = state.get('pos_embed'), local_metadata.get(GRID)
        own = getattr(self, 'pos_embed', None)
        if pos_embed is not None and own is not None and (grid is not None or pos_embed.shape != own.shape):
            with suppress(ValueError) if grid is None else nullcontext():  # torch reports the shapes then
                fitted = self.adapt_state(with_grid(state, grid))['pos_embed']
                state_dict = {**state_dict, f'{prefix}pos_embed': fitted}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def init_weights(self) -> None:
        """Load ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)``; parameters are initialised already."""
        if self.init_cfg is None or self.is_init:
            return
        if not isinstance(self.init_cfg, Mapping) or self.init_cfg.get('type') != 'Pretrained':
            super().init_weights()
            return
        from mmssmprune.checkpoints.loading import load_pretrained  # with it come mmengine's runner and OpenCV

        load_pretrained(self, self.init_cfg['checkpoint'], self.init_cfg.get('prefix'), self.optional_in_checkpoint)
        self.is_init = True


def pruned_backbones(model: nn.Module) -> list[PrunableBackbone]:
    """Every pruned backbone inside ``model``, wrappers of any kind included.

    Raises:
        ValueError: there is none.
    """
    pruned = [m for m in model.modules() if isinstance(m, PrunableBackbone) and m.pruning is not None]
    if not pruned:
        raise ValueError('this model has no pruned backbone; add pruning=dict(...) to the backbone in its config')
    return pruned


def set_keep_ratio(model: nn.Module, keep_ratio: float | Sequence[float]) -> None:
    """Set the keep ratio of every pruned backbone inside ``model``, mmdet and mmseg wrappers included.

    Raises:
        ValueError: nothing in the model is pruned, or a ratio is outside (0, 1].
    """
    for backbone in pruned_backbones(model):
        backbone.set_keep_ratio(keep_ratio)
