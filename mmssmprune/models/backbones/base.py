"""What the pruned backbones share: the `pruning` config, the dial, and strict loading of pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssmprune._values import flag, is_list, is_whole, whole
from mmssmprune.models.layers.patch_embed import resize_pos_embed
from mmssmprune.models.plan_target import meet_target
from mmssmprune.models.pos_embed import GRID, recorded_grid, stored_grid, with_grid
from mmssmprune.pruning import TokenPruner


def resolve_arch(
    arch: str | Mapping[str, Any], zoo: Mapping[str, dict], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of ``arch`` (a name in ``zoo`` in any case, or a dict) with ``overrides`` that are not None.

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
    missing = [key for key in ('embed_dims', 'num_layers') if key not in settings]
    if missing:
        raise ValueError(f'arch needs {missing[0]!r}; give a name ({", ".join(zoo)}) or all settings')
    for key in ('embed_dims', 'num_layers'):
        settings[key] = whole(key, settings[key])
    return settings


def resolve_out_indices(out_indices: int | Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Ascending 0-based layer numbers, negative ones counted from the end; raises ValueError beyond the depth."""
    given = [out_indices] if is_whole(out_indices) else list(out_indices) if is_list(out_indices) else []
    if not given or not all(map(is_whole, given)):
        raise ValueError(f'out_indices must be a layer number or a list of such, got {out_indices!r}')
    resolved = [int(i) + num_layers if i < 0 else int(i) for i in given]
    for i, layer in zip(given, resolved, strict=True):
        if not 0 <= layer < num_layers:
            raise ValueError(f'out_indices names layer {i}, but this backbone has layers 0 to {num_layers - 1}')
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


class _Finished(type(BaseModule)):
    """Calls ``_finish`` when the constructors of a class and its subclasses have all run."""

    def __call__(cls, *args: Any, **kwargs: Any) -> PrunableBackbone:
        built = super().__call__(*args, **kwargs)
        built._finish()
        return built


class PrunableBackbone(BaseModule, metaclass=_Finished):
    """Base of the backbones.

    Args:
        num_layers: depth.
        pruning: the `pruning` dict (see `TokenPruner`), or None for the dense model.
        with_cp: recompute each layer in backward instead of storing it.
        has_class_token: whether the sequence holds one.
        out_type: what forward returns, one of the class's ``out_types``.
        init_cfg: as in mmengine; ``type='Pretrained'`` loads by key and reports every mismatch by name.
    """

    # Modules that a classification checkpoint does not have and that start from their own initialisation.
    optional_in_checkpoint: tuple[str, ...] = ('pruner.',)
    # 'featmap' is a map per out_index; the other names, as in mmpretrain, are one vector per image for a classifier.
    out_types: tuple[str, ...] = ('featmap',)
    # In training every so many batches, one dense pass without gradients renews what `calibrated` has stored.
    calibration_interval = 16
    # The grid (h, w) of `pos_embed`; None where a backbone has none.
    pos_hw: tuple[int, int] | None = None

    def __init__(
        self,
        num_layers: int,
        pruning: dict | None,
        with_cp: bool,
        init_cfg: dict | None,
        has_class_token: bool = False,
        out_type: str = 'featmap',
    ):
        super().__init__(_checked_init_cfg(init_cfg))
        self.num_layers = num_layers
        self.with_cp = flag('with_cp', with_cp)
        self.pruner = TokenPruner(pruning, num_layers, has_class_token)
        self.out_type = self._checked_out_type(out_type, pruning)
        if self.returns_vector:
            self.pruner.restoration = 'zero'  # no map is shown to anyone, so nothing has to be remembered for one
        self._forwards = 0

    @property
    def returns_vector(self) -> bool:
        """Whether forward returns one vector (B, C) per image, and nothing is restored."""
        return self.out_type != 'featmap'

    def _checked_out_type(self, out_type: str, pruning: dict | None) -> str:
        if out_type not in self.out_types:
            raise ValueError(
                f'out_type is {out_type!r}; the names of {type(self).__name__} are {", ".join(self.out_types)}'
            )
        if out_type != 'featmap' and (pruning or {}).get('restoration') is not None:
            raise ValueError(f'pruning.restoration is about maps, and out_type {out_type!r} returns none; leave it out')
        return out_type

    def _check_vector(self, out_indices: tuple[int, ...], final_norm: bool) -> None:
        """Refuse settings that a vector, which is read from the normalised output of the last layer, has no use for."""
        if not self.returns_vector:
            return
        if out_indices != (self.num_layers - 1,):
            raise ValueError(
                f'out_type {self.out_type!r} is read after the last layer, so out_indices must be -1, '
                f'got {list(out_indices)}'
            )
        if not final_norm:
            raise ValueError(f'out_type {self.out_type!r} is read after the final norm: set final_norm=True')

    def _finish(self) -> None:
        """Solve for the keep ratio of a plan that is given as a target, now that FLOPs can be counted."""
        if self.pruner.target is not None:
            meet_target(self, self.pruner.target, self._reopened_layers)

    @property
    def pruning(self) -> dict | None:
        """The `pruning` dict at work, or None for a dense model."""
        return self.pruner.config or None

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """Prune by other ratios from now on; raises ValueError for a dense model or a ratio outside (0, 1]."""
        self.pruner.set_keep_ratio(keep_ratio)

    def tokens_per_layer(self, hw: tuple[int, int]) -> list[int]:
        """Tokens that each layer processes for an image of (H, W) pixels, class tokens included."""
        cells, protected = self._sequence_of(hw)
        if self.pruner.plan is None:
            return [cells + protected] * self.num_layers
        tokens = self.pruner.plan.tokens_per_layer(self.num_layers, cells, self._reopened_layers)
        return [n + protected for n in tokens]

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        """Layers after which the full map is read."""
        return self.out_indices

    @property
    def _reopened_layers(self) -> tuple[int, ...]:
        """Layers after which all cells are candidates again."""
        return self.tapped_layers if self.pruner.regime == 'per_stage' else ()

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay, and the number of depths, as in mmpretrain.

        Depth 0 is what comes before the layers (patches, positions, class tokens, the state of the pruning), i + 1 is
        ``layers[i]``, and the last is what comes after or beside them, any name without ``prefix`` included.
        """
        last = self.num_layers + 1
        if not param_name.startswith(prefix):
            return last, last + 1
        first, _, rest = param_name[len(prefix) :].partition('.')
        if first == 'layers':
            return int(rest.partition('.')[0]) + 1, last + 1
        is_input = first in ('patch_embed', 'pos_embed', 'pruner') or first.startswith('cls_token')
        return (0 if is_input else last), last + 1

    @property
    def num_extra_tokens(self) -> int:
        """Class tokens in the sequence, which belong to no cell of the grid (mmpretrain's name for them)."""
        return 0

    def _sequence_of(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Number of prunable cells and of class tokens for an image of (H, W) pixels."""
        raise NotImplementedError

    def _blank(self, hw_shape: tuple[int, int]) -> Tensor | None:
        """The mask token at every position, (1, L, C), or None where there is none."""
        mask_token = getattr(self.pruner, 'mask_token', None)
        return None if mask_token is None else mask_token + self._pos_embed_of(hw_shape)

    def _pos_embed_of(self, hw_shape: tuple[int, int]) -> Tensor:
        """Position embedding (1, L, C) of the sequence over the grid ``hw_shape``."""
        raise NotImplementedError

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Measure the delta of pruned cells on a batch (B, 3, H, W), preprocessed, and average it into what is stored.

        Raises:
            ValueError: the alignment at work stores nothing.
        """
        if not self.pruner.calibrates:
            raise ValueError("pruning.alignment must be 'calibrated' or 'learned' to be calibrated")
        pruner, modes = self.pruner, {module: module.training for module in self.modules()}
        self.pruner = pruner.recorder()
        self.eval()
        try:
            self(images)
            pruner.take_in(self.pruner)
        finally:
            self.pruner = pruner
            for module, mode in modes.items():
                module.training = mode

    @torch.compiler.disable
    def _calibrate_if_due(self, images: Tensor) -> None:
        """In training: `calibrated` follows the model, `learned` is only given its start, once something is pruned."""
        due = self._forwards % self.calibration_interval == 0
        if due and self.pruner.alignment == 'learned':
            due = int(self.pruner.calibrated_batches) == 0
        self._forwards += 1
        if due:
            self.calibrate(images)

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

    def _run(self, layer: nn.Module, *args: Any) -> tuple[Tensor, ...]:
        """Run a layer, with gradient checkpointing if asked."""
        if self.with_cp and self.training:
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)

    def init_weights(self) -> None:
        """Load ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)``; parameters are initialised already."""
        if self.init_cfg is None or self.is_init:
            return
        if not isinstance(self.init_cfg, Mapping) or self.init_cfg.get('type') != 'Pretrained':
            super().init_weights()
            return
        from mmssmprune.models.checkpoint import load_pretrained  # with it come mmengine's runner and OpenCV

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
