"""PlainMamba (arXiv 2403.17695), dense or with token pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmssmprune._mmengine import MODELS
from mmssmprune._values import arguments, flag, is_list, is_whole, mapping, positive, rate, sides, whole
from mmssmprune.models.layers.patch_embed import ConvStemPatchEmbed, check_image_size, resize_pos_embed
from mmssmprune.models.layers.plain_mamba_layer import PlainMambaLayer, PlainMambaMixer
from mmssmprune.pruning import ScanOrder, Stage, TokenState, snake_scan

from .base import PrunableBackbone, drop_path_rates, resolve_arch, resolve_out_indices

INTERPOLATE_MODES = ('bicubic', 'bilinear', 'nearest', 'nearest-exact', 'area')
# What ``arch=None`` means officially.
_OFFICIAL_DEFAULTS = dict(embed_dims=192, num_layers=20)
# Of the official ``mamba_cfg``, what decides how parameters start or is a size to prepare for.
_OFFICIAL_STARTS = ('dt_min', 'dt_max', 'dt_init', 'dt_scale', 'dt_init_floor', 'default_hw_shape')


def _mixer_cfg_of(layer_cfgs: dict | None) -> dict | None:
    """The ``mixer_cfg`` that the official ``layer_cfgs`` say; raises ValueError for layers that are not there."""
    if layer_cfgs is None:
        return None
    layer_cfgs = mapping('layer_cfgs', layer_cfgs)
    unknown = [key for key in layer_cfgs if key not in ('use_rms_norm', 'mamba_cfg')]
    if unknown or layer_cfgs.get('use_rms_norm'):
        raise ValueError(f'layer_cfgs can have mamba_cfg=dict(...) and use_rms_norm=False, got {layer_cfgs!r}')
    mamba_cfg = mapping('layer_cfgs.mamba_cfg', layer_cfgs.get('mamba_cfg'))
    if mamba_cfg.pop('init_layer_scale', None) is not None:
        raise ValueError('layer_cfgs.mamba_cfg.init_layer_scale can only be None: no released model has a layer scale')
    # Officially only their projections have no biases unless told.
    return {'bias': False} | {key: value for key, value in mamba_cfg.items() if key not in _OFFICIAL_STARTS}


def _eps_of(norm_cfg: dict | None) -> float:
    """The eps of the LayerNorms of the outputs; raises ValueError for other norms."""
    norm_cfg = mapping('norm_cfg', norm_cfg) or dict(type='LN', eps=1e-6)
    if norm_cfg.get('type') != 'LN' or not {'type', 'eps', 'requires_grad'}.issuperset(norm_cfg):
        raise ValueError(f"norm_cfg can only be dict(type='LN', eps=...), the outputs' norm, got {norm_cfg}")
    return positive('norm_cfg.eps', norm_cfg.get('eps', 1e-5))  # mmcv's own default


@MODELS.register_module()
class PlainMamba(PrunableBackbone):
    """PlainMamba: a convolutional stem, then layers of one width and resolution that scan along four snakes.

    Args:
        arch: ``'L1'``, ``'L2'``, ``'L3'`` (any case), or a dict with ``embed_dims``, ``num_layers`` and optionally
            ``num_convs``, ``layers_with_dwconv``, ``mixer_cfg``.
        img_size: side of the training images in pixels, or (H, W); sets the grid of the position embedding.
        patch_size: side of a patch in pixels; the stem halves the resolution first, so it must be even.
        in_channels: channels of the image.
        out_indices: layers whose output is returned, 0-based; negative numbers count from the end.
        out_type: ``'featmap'`` for maps, or ``'avg_featmap'`` for the mean (B, C) over the tokens that the last layer
            has left, normalised, which the official classifier reads.
        drop_path_rate: stochastic depth of the last layer; it grows linearly from 0 at the first.
        final_norm: normalise the output of the last layer (key ``ln1``). Earlier outputs always have a norm of their
            own (``norm_layer{i}``).
        embed_dims, num_layers, num_convs, layers_with_dwconv, mixer_cfg: override the settings of ``arch``.
        pruning: the `pruning` dict, or None for the dense model. E.g. ``dict(layers=[5, 11, 17], keep_ratio=0.7,
            reduction='merge_neighbours', alignment='carry', conv_fill='leader', restoration='flow')``.
        with_cp: gradient checkpointing of every layer.
        init_cfg: as in mmengine; see `PrunableBackbone`.
        num_convs_patch_embed, layer_cfgs: the official names of ``num_convs``, and of ``mixer_cfg`` (inside
            ``mamba_cfg``, whose initial values have no effect here).
        with_pos_embed: whether there is a position embedding.
        drop_rate: dropout of the tokens with their positions.
        interpolate_mode: how the position embedding is resized for other images, as `torch.nn.functional.interpolate`
            calls it.
        convert_syncbn: make the BatchNorms SyncBatchNorms.
        freeze_patch_embed: do not train the stem.
        norm_cfg: ``dict(type='LN', eps=...)`` of the outputs' norms; None means an eps of 1e-6, as released.
        test_cfg: accepted, without effect as in the official class.

    Raises:
        ValueError: an argument is not what it has to be; one sentence says which.

    State-dict keys equal those of the official repository (ChenhongyiYang/PlainMamba).
    """

    arch_zoo = {  # noqa: RUF012
        'l1': dict(embed_dims=192, num_layers=24, num_convs=1, layers_with_dwconv=(0,), mixer_cfg={}),
        'l2': dict(embed_dims=384, num_layers=24, num_convs=2, layers_with_dwconv=(), mixer_cfg={}),
        'l3': dict(embed_dims=448, num_layers=36, num_convs=2, layers_with_dwconv=(), mixer_cfg={}),
    }
    optional_in_checkpoint = (*PrunableBackbone.optional_in_checkpoint, 'norm_layer')
    out_types = ('featmap', 'avg_featmap')

    def __init__(
        self,
        arch: str | dict = 'L1',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        final_norm: bool = True,
        embed_dims: int | None = None,
        num_layers: int | None = None,
        num_convs: int | None = None,
        layers_with_dwconv: Sequence[int] | None = None,
        mixer_cfg: dict | None = None,
        pruning: dict | None = None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        num_convs_patch_embed: int | None = None,
        with_pos_embed: bool = True,
        drop_rate: float = 0.0,
        interpolate_mode: str = 'bicubic',
        layer_cfgs: dict | None = None,
        convert_syncbn: bool = False,
        freeze_patch_embed: bool = False,
        norm_cfg: dict | None = None,
        test_cfg: dict | None = None,
    ):
        overrides = dict(embed_dims=embed_dims, num_layers=num_layers)
        overrides['num_convs'] = num_convs_patch_embed if num_convs is None else num_convs
        overrides.update(layers_with_dwconv=layers_with_dwconv)
        overrides['mixer_cfg'] = _mixer_cfg_of(layer_cfgs) if mixer_cfg is None else mixer_cfg
        settings = resolve_arch(dict(_OFFICIAL_DEFAULTS) if arch is None else arch, self.arch_zoo, overrides)
        super().__init__(with_cp, init_cfg, out_type)
        if whole('patch_size', patch_size) % 2:
            raise ValueError(f'patch_size must be even, since the stem halves the resolution; got {patch_size}')
        drop_path_rate, final_norm = rate('drop_path_rate', drop_path_rate), flag('final_norm', final_norm)
        if interpolate_mode not in INTERPOLATE_MODES:
            raise ValueError(f'interpolate_mode is {interpolate_mode!r}; the names are {", ".join(INTERPOLATE_MODES)}')
        self.interpolate_mode = interpolate_mode
        self.freeze_patch_embed = flag('freeze_patch_embed', freeze_patch_embed)
        self.drop_after_pos = nn.Dropout(rate('drop_rate', drop_rate))
        self.embed_dims = settings['embed_dims']
        depth = settings['num_layers']
        self.out_indices = resolve_out_indices(out_indices, depth)
        self._check_vector(depth, final_norm)
        in_channels, num_convs = whole('in_channels', in_channels), whole('num_convs', settings.get('num_convs', 1), 0)
        self.patch_embed = ConvStemPatchEmbed(in_channels, self.embed_dims, int(patch_size), num_convs)
        img_hw = sides('img_size', img_size)
        check_image_size(img_hw, patch_size)
        grid = self.patch_embed.grid_of(img_hw)
        if flag('with_pos_embed', with_pos_embed):
            self.pos_hw = grid
            self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], self.embed_dims))
        self._make_layers(settings, drop_path_rate)
        eps = _eps_of(norm_cfg)
        if final_norm:
            self.ln1 = nn.LayerNorm(self.embed_dims, eps)
        for i in self.out_indices:
            if i != depth - 1:
                self.add_module(f'norm_layer{i}', nn.LayerNorm(self.embed_dims, eps))
        self._initialise()
        if flag('convert_syncbn', convert_syncbn):
            nn.SyncBatchNorm.convert_sync_batchnorm(self)
        if self.freeze_patch_embed:
            self.patch_embed.requires_grad_(False)
        self.set_pruning(pruning)

    def set_pruning(self, pruning: Mapping[str, Any] | None) -> None:
        """As in the base, after a look at the layers that end with a convolution over the whole grid."""
        super().set_pruning(pruning)
        last = max((i for i, layer in enumerate(self.layers) if layer.replaces_tokens), default=0)
        if self.pruner.plan and any(first < last for first in self.pruner.plan.layers[:1]):
            raise ValueError(
                f'layers_with_dwconv replaces all tokens by a convolution, so pruning must start at layer {last} or '
                f'later, not at {self.pruner.plan.layers[0]}'
            )

    def train(self, mode: bool = True) -> PlainMamba:
        """As torch's; a frozen stem stays in evaluation mode."""
        super().train(mode)
        if self.freeze_patch_embed:
            self.patch_embed.eval()
        return self

    def _make_layers(self, settings: dict, drop_path_rate: float) -> None:
        with_dwconv, depth = settings.get('layers_with_dwconv', ()), settings['num_layers']
        if not is_list(with_dwconv) or not all(is_whole(i) and 0 <= i < depth for i in with_dwconv):
            raise ValueError(f'layers_with_dwconv must be a list of layers from 0 to {depth - 1}, got {with_dwconv!r}')
        with_dwconv = tuple(int(i) for i in with_dwconv)
        mixer_cfg = arguments('mixer_cfg', settings.get('mixer_cfg'), PlainMambaMixer, ('embed_dims',))
        rates = drop_path_rates(drop_path_rate, depth)
        self.layers = nn.ModuleList(
            PlainMambaLayer(self.embed_dims, mixer_cfg, dropped, use_dwconv=i in with_dwconv)
            for i, dropped in enumerate(rates)
        )

    def _initialise(self) -> None:
        """Start as the official training runs did.

        Their config sets every Linear, the step-size projection included, to a normal of 0.02 with zero bias; the
        inverse-softplus bias that the official class first writes is overwritten by it.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.pos_hw is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for layer in self.layers:
            nn.init.trunc_normal_(layer.mamba.direction_Bs, std=0.02)

    @property
    def stages(self) -> tuple[Stage]:
        """One: every layer sees the same grid, and its four directions share their parameters."""
        return (Stage(self.layers, self.embed_dims, self.layers[0].mamba.d_inner, scan_fill='zero'),)

    def grids_of(self, hw: tuple[int, int]) -> list[tuple[int, int]]:
        """The token grid (h, w) of an image of (H, W) pixels, in a list."""
        return [self.patch_embed.grid_of(hw)]

    def scan_order(self, hw_shape: tuple[int, int], device: torch.device) -> ScanOrder:
        """Four snakes."""
        return snake_scan(*hw_shape, device)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> tokens with positions (B, h*w, C) and the grid (h, w)."""
        x, hw_shape = self.patch_embed(images)
        if self.pos_hw is not None:
            x = x + self.pos_embed_of(hw_shape)
        return self.drop_after_pos(x), hw_shape

    def pos_embed_of(self, hw_shape: tuple[int, int]) -> Tensor | None:
        """Position embedding (1, h*w, C), if there is one."""
        if self.pos_hw is None:
            return None
        return resize_pos_embed(self.pos_embed, self.pos_hw, hw_shape, mode=self.interpolate_mode)

    def output(self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState) -> Tensor:
        """The normalised map (B, C, h, w) of an output layer, or the mean (B, C) of its tokens."""
        if self.returns_vector:
            return self._norm(streams[0], layer).mean(1)
        (x,) = self.pruner.restore(streams, tokens)
        return self._norm(x, layer).transpose(1, 2).unflatten(2, tokens.hw_shape).contiguous()

    def _norm(self, x: Tensor, layer: int) -> Tensor:
        norm = f'norm_layer{layer}' if layer != self.num_layers - 1 else 'ln1'
        return getattr(self, norm)(x) if hasattr(self, norm) else x
