"""VMamba (arXiv 2401.10166), dense or with token pruning inside its stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from mmssmprune._mmengine import MODELS, print_log
from mmssmprune._values import flag, is_list, is_whole, rate, whole
from mmssmprune.checkpoints.grids import replace_within, within
from mmssmprune.checkpoints.vmamba_names import current_weights
from mmssmprune.models.layers.vmamba_resampling import VMambaPatchEmbed, make_downsample
from mmssmprune.models.layers.vss_block import VSSBlock
from mmssmprune.pruning import ScanOrder, Stage, TokenState, line_scan

from .base import PrunableBackbone, drop_path_rates, resolve_arch, resolve_out_indices


def _depths(name: str, value: Any) -> tuple[int, ...]:
    """Blocks of each stage; raises ValueError for anything else."""
    if not is_list(value) or not len(value):
        raise ValueError(f'{name} must be a list with the blocks of each stage, such as [2, 2, 8, 2], got {value!r}')
    return tuple(whole(f'{name}[{i}]', depth) for i, depth in enumerate(value))


def _widths(name: str, value: Any) -> int | tuple[int, ...]:
    """Channels of the first stage, or of each; raises ValueError for anything else."""
    if is_list(value) and len(value):
        return tuple(whole(f'{name}[{i}]', width) for i, width in enumerate(value))
    return whole(name, value)


# What the releases since March 2024 share, and the first one.
_V2 = dict(d_state=1, dt_rank='auto', conv_size=3, conv_bias=False, gated=False, mlp_ratio=4.0)
_V2 |= dict(patch_embed_version='v2', downsample_version='v3')
_VANILLA = dict(d_state=16, dt_rank='auto', conv_size=3, conv_bias=True, gated=True, mlp_ratio=0.0)
_VANILLA |= dict(patch_embed_version='v1', downsample_version='v1')


def _arch(common: dict, embed_dims: int, depths: tuple[int, ...], ssm_ratio: float) -> dict:
    return dict(embed_dims=embed_dims, depths=depths, ssm_ratio=ssm_ratio, **common)


@MODELS.register_module()
class VMamba(PrunableBackbone):
    """VMamba: four stages at strides 4 to 32; blocks scan rows, columns and their reverses, then an MLP.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` (or T, S, B; any case) are the variants of the published detectors and
            segmentors, T[s1l8], S[s2l15] and B[s2l15]. Other released ones go by these names: ``'t[s2l5]'``,
            ``'s[s1l20]'``, ``'b[s1l20]'``, ``'vanilla-t'``, ``'vanilla-s'``, ``'vanilla-b'``. Or a dict with
            ``embed_dims`` and ``depths``, and optionally the other settings below.
        patch_size: side of a patch in pixels.
        in_channels: channels of the image.
        out_indices: stages whose output is returned, 0-based; negative numbers count from the end. What comes after
            the last of them does not run and is not trained.
        out_type: ``'featmap'`` for maps, or ``'avg_featmap'`` for the mean (B, C) over the tokens that the last block
            has left, normalised, which the official classifier reads.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
        patch_norm: whether the patch embedding has norms.
        embed_dims: channels of the first stage, which double from stage to stage, or of each.
        depths: blocks of each stage.
        ssm_ratio: channels of the scans as a share of the stage's.
        d_state, dt_rank, conv_size, conv_bias, gated: as in `mmssmprune.models.layers.vss_block.SS2D`.
        mlp_ratio: width of the MLPs as a share of the stage's channels; 0 means none.
        patch_embed_version, downsample_version: the official names, ``'v2'`` and ``'v3'``, or ``'v1'`` in the first
            release.
        pruning, with_cp, init_cfg: as in `PlainMamba`. Blocks are numbered through all stages. Every cell returns at
            the end of a stage; ``layers`` that name the last block of a stage let the next one begin pruned.

    Raises:
        ValueError: an argument is not what it has to be; one sentence says which.

    State-dict keys equal those of the official repository (MzeroMiko/VMamba).
    """

    arch_zoo = {  # noqa: RUF012
        'tiny': _arch(_V2, 96, (2, 2, 8, 2), 1.0),
        'small': _arch(_V2, 96, (2, 2, 15, 2), 2.0),
        'base': _arch(_V2, 128, (2, 2, 15, 2), 2.0),
        't[s2l5]': _arch(_V2, 96, (2, 2, 5, 2), 2.0),
        's[s1l20]': _arch(_V2, 96, (2, 2, 20, 2), 1.0),
        'b[s1l20]': _arch(_V2, 128, (2, 2, 20, 2), 1.0),
        'vanilla-t': _arch(_VANILLA, 96, (2, 2, 9, 2), 2.0),
        'vanilla-s': _arch(_VANILLA, 96, (2, 2, 27, 2), 2.0),
        'vanilla-b': _arch(_VANILLA, 128, (2, 2, 27, 2), 2.0),
    }
    optional_in_checkpoint = (*PrunableBackbone.optional_in_checkpoint, 'outnorm')
    unused_in_checkpoint = ('classifier.', 'outnorm')
    out_types = ('featmap', 'avg_featmap')

    def __init__(
        self,
        arch: str | dict = 'tiny',
        patch_size: int = 4,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        patch_norm: bool = True,
        embed_dims: int | Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        ssm_ratio: float | None = None,
        d_state: int | None = None,
        dt_rank: int | str | None = None,
        conv_size: int | None = None,
        conv_bias: bool | None = None,
        gated: bool | None = None,
        mlp_ratio: float | None = None,
        patch_embed_version: str | None = None,
        downsample_version: str | None = None,
        pruning: dict | None = None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ):
        overrides = dict(embed_dims=embed_dims, depths=depths, ssm_ratio=ssm_ratio, d_state=d_state, dt_rank=dt_rank)
        overrides |= dict(conv_size=conv_size, conv_bias=conv_bias, gated=gated, mlp_ratio=mlp_ratio)
        overrides |= dict(patch_embed_version=patch_embed_version, downsample_version=downsample_version)
        zoo = {**self.arch_zoo, **{name[0]: self.arch_zoo[name] for name in ('tiny', 'small', 'base')}}
        zoo |= {'t[s1l8]': zoo['tiny'], 's[s2l15]': zoo['small'], 'b[s2l15]': zoo['base']}
        settings = resolve_arch(arch, zoo, overrides, dict(embed_dims=_widths, depths=_depths))
        settings = dict(_V2, ssm_ratio=2.0) | settings
        super().__init__(with_cp, init_cfg, out_type)
        self.depths, dims = settings['depths'], settings['embed_dims']
        count = len(self.depths)
        self.embed_dims = tuple(dims * 2**i for i in range(count)) if is_whole(dims) else dims
        if len(self.embed_dims) != count:
            raise ValueError(f'embed_dims has {len(self.embed_dims)} stages and depths {count}')
        self.out_indices = resolve_out_indices(out_indices, count, 'stage')
        self._check_vector(count, final_norm=True)
        patch_size, in_channels = whole('patch_size', patch_size), whole('in_channels', in_channels)
        version, patch_norm = settings['patch_embed_version'], flag('patch_norm', patch_norm)
        self.patch_embed = VMambaPatchEmbed(in_channels, self.embed_dims[0], patch_size, version, patch_norm)
        self._make_layers(settings, rate('drop_path_rate', drop_path_rate))
        for i in self.out_indices:
            self.add_module(f'outnorm{i}', nn.LayerNorm(self.embed_dims[i], eps=1e-5))
        self._initialise()
        self.set_pruning(pruning)

    def _make_layers(self, settings: dict, drop_path_rate: float) -> None:
        names = ('ssm_ratio', 'd_state', 'dt_rank', 'conv_size', 'conv_bias', 'gated')
        mixer_cfg = {name: settings[name] for name in names}
        rates = iter(drop_path_rates(drop_path_rate, sum(self.depths)))
        self.layers = nn.ModuleList()
        for i, (depth, dims) in enumerate(zip(self.depths, self.embed_dims, strict=True)):
            blocks = (VSSBlock(dims, mixer_cfg, settings['mlp_ratio'], next(rates)) for _ in range(depth))
            stage = nn.ModuleDict({'blocks': nn.ModuleList(blocks)})
            if i + 1 < len(self.depths):
                stage['downsample'] = make_downsample(dims, self.embed_dims[i + 1], settings['downsample_version'])
            self.layers.append(stage)
        last = self.out_indices[-1]
        if last + 1 < len(self.depths):  # the keys exist officially, but DDP refuses parameters without gradient
            self.layers[last]['downsample'].requires_grad_(False)
            self.layers[last + 1 :].requires_grad_(False)

    def _initialise(self) -> None:
        """Start as the official training runs did: Linear layers normal of 0.02 with zero bias, the rest as made."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those up to the last one that is returned; each direction has parameters of its own."""
        firsts = (0, *accumulate(self.depths))
        return tuple(
            Stage(blocks, self.embed_dims[i], blocks[0].op.d_inner, firsts[i])
            for i, blocks in enumerate(layer['blocks'] for layer in self.layers[: self.out_indices[-1] + 1])
        )

    @property
    def returned_layers(self) -> tuple[int, ...]:
        """The last block of each stage that is returned."""
        ends = tuple(accumulate(self.depths))
        return tuple(ends[i] - 1 for i in self.out_indices)

    def grids_of(self, hw: tuple[int, int]) -> list[tuple[int, int]]:
        """The token grid (h, w) of each stage for an image of (H, W) pixels."""
        grids = [self.patch_embed.grid_of(hw)]
        for layer in self.layers[: self.out_indices[-1]]:
            grids.append(layer['downsample'].grid_of(grids[-1]))
        return grids

    @property
    def cell_places(self) -> list[tuple[int, float]]:
        """As in the base; padded convolutions look at the first pixel, from stage to stage."""
        stride, middle = 1, 0.5
        places = []
        for part in (self.patch_embed, *(layer['downsample'] for layer in self.layers[: self.out_indices[-1]])):
            for side, step, padding in part.windows:
                middle += stride * ((side - 1) / 2 - padding)
                stride *= step
            places.append((stride, middle))
        return places

    def scan_order(self, hw_shape: tuple[int, int], device: torch.device) -> ScanOrder:
        """Rows, columns and the reverse of both."""
        return line_scan(*hw_shape, device)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> tokens (B, h*w, C) and the grid (h, w)."""
        return self.patch_embed(images)

    def output(self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState) -> Tensor:
        """The normalised map (B, C, h, w) of a stage, or the mean (B, C) of its tokens."""
        norm = getattr(self, f'outnorm{tokens.stage}')
        if self.returns_vector:
            return norm(streams[0]).mean(1)
        (x,) = self.pruner.restore(streams, tokens)
        return norm(x).transpose(1, 2).unflatten(2, tokens.hw_shape).contiguous()

    def leave(self, number: int, streams: tuple[Tensor, ...], hw_shape: tuple[int, int]) -> tuple[Tensor, tuple]:
        """Downsample; the map that is returned was normalised, this one is not."""
        x = self.layers[number]['downsample'](streams[0].unflatten(1, hw_shape))
        return x.flatten(1, 2), (x.shape[1], x.shape[2])

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Give weights of older files today's names and shapes, and the norm of a classifier its place.

        Where a classifier is built, its norm is that of the vector; a detector or a segmentor starts with norms of its
        own, as officially.

        Args:
            state: names without prefix.

        Raises:
            ValueError: two weights have the same name today.
        """
        adapted = OrderedDict()
        for old, (name, value) in current_weights(state).items():
            if name in adapted:
                raise ValueError(f'two of its keys mean {name}; {old} is the second')
            adapted[name] = value
        own, norm = [f'outnorm{i}.' for i in self.out_indices], f'outnorm{len(self.depths) - 1}.'
        if self.returns_vector and not any(name.startswith(norm) for name in adapted):
            adapted = OrderedDict((name.replace('classifier.norm.', norm), value) for name, value in adapted.items())
        elif {name.split('.')[0] for name in adapted if name.startswith('outnorm')} == {norm[:-1]} and len(own) > 1:
            adapted = OrderedDict((name, value) for name, value in adapted.items() if not name.startswith(norm))
            print_log(f'the norm of a classifier ({norm}weight and bias) is left out', logger='current')
        is_same = adapted.keys() == state.keys() and all(adapted[name] is state[name] for name in state)
        return state if is_same else adapted

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As torch's, after `adapt_state`; what changes is seen by the modules inside."""
        part = within(state_dict, prefix)
        replace_within(state_dict, prefix, part, self.adapt_state(part))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """As in the base; what ends a stage has the depth of the stage's last block."""
        depth, count = super().get_layer_depth(param_name, prefix)
        own = param_name.removeprefix(prefix).split('.')
        if param_name.startswith(prefix) and own[0] == 'layers' and own[2] == 'downsample':
            depth = min(sum(self.depths[: int(own[1]) + 1]), count - 1)
        return depth, count
