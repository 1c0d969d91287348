"""PlainMamba for detection: features at strides 4, 8, 16, 32 through an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmssmprune._values import flag, is_list, is_number, is_whole, mapping, positive, whole
from mmssmprune.models.layers.adapter import Interaction, SpatialPrior
from mmssmprune.models.layers.deformable_attention import grid_reference_points
from mmssmprune.models.layers.norm import make_norm
from mmssmprune.models.layers.patch_embed import padding_advice
from mmssmprune.pruning import TokenState

from .base import FeatureInfo
from .plain_mamba import PlainMamba


def equal_quarters(num_layers: int) -> list[tuple[int, int]]:
    """First and last layer of four runs of (nearly) equal length."""
    edges = [num_layers * i // 4 for i in range(5)]
    return [(first, last - 1) for first, last in pairwise(edges)]


@MODELS.register_module()
class PlainMambaAdapter(PlainMamba):
    """PlainMamba with the ViT-Adapter around it (the official detection backbone).

    A small CNN reads the image at strides 4 to 32. Before each run of layers the tokens take from it (injector), after
    it the CNN's features take from the tokens (extractor). Where tokens are pruned, the injector queries kept cells
    only and the extractor sees the restored map.

    Args:
        interaction_indexes: runs of layers, each as (first, ..., last), that cover all of them in order, as many as
            wanted; None means four of equal length. The outputs are four in any case: they are the CNN's features
            after the last run.
        conv_inplane: channels of the CNN at stride 4.
        n_points: samples per head and level of the deformable attention.
        deform_num_heads: its heads; None means 8 for L3's width of 448 and 6 otherwise, as released.
        deform_ratio: width of its values as a share of ``embed_dims``.
        init_values: where the injectors' factor ``gamma`` starts.
        with_cffn: whether the extractors have an FFN.
        cffn_ratio: its width as a share of ``embed_dims``.
        use_extra_extractor: whether two more extractors follow the last run.
        add_vit_feature: add the tokens' map to the four outputs.
        vit_feature_from: ``'last'`` (official) adds the map after the last layer to all four; ``'each'`` adds to each
            output the map after its own run of layers, as ViT-Adapter does, and needs four. Released checkpoints need
            ``'last'``.
        norm_cfg: norm of the CNN and of the outputs.
        final_norm: False as in the official detection models: the last map is not normalised.
        pretrain_size, num_classes: accepted, since the official configs may have them; they have no effect there
            either.
        **kwargs: as in `PlainMamba`; ``out_indices`` can only be the last layer.

    Forward takes (B, 3, H, W) with H and W divisible by 32 and returns four maps (B, C, H/4, W/4) ... (B, C, H/32,
    W/32). State-dict keys equal the official ones.
    """

    optional_in_checkpoint = (
        *PlainMamba.optional_in_checkpoint,
        'spm.',
        'interactions.',
        'up.',
        'ad_norm',
        'level_embed',
    )
    out_types = ('featmap',)

    def __init__(
        self,
        *args,
        interaction_indexes: Sequence[Sequence[int]] | None = None,
        conv_inplane: int = 64,
        n_points: int = 4,
        deform_num_heads: int | None = None,
        deform_ratio: float = 1.0,
        init_values: float = 0.0,
        with_cffn: bool = True,
        cffn_ratio: float = 0.25,
        use_extra_extractor: bool = True,
        add_vit_feature: bool = True,
        vit_feature_from: str = 'last',
        norm_cfg: dict | None = None,
        final_norm: bool = False,
        drop_path_rate: float = 0.0,
        pretrain_size: int | None = None,
        num_classes: int | None = None,
        pruning: dict | None = None,
        **kwargs,
    ):
        # Pruning comes at the end: what it costs and saves is that of all modules.
        super().__init__(*args, final_norm=final_norm, drop_path_rate=drop_path_rate, **kwargs)
        if self.patch_embed.patch_size != 16:
            raise ValueError(f'PlainMambaAdapter needs patch_size 16, got {self.patch_embed.patch_size}')
        if self.out_indices != (self.num_layers - 1,):
            raise ValueError('PlainMambaAdapter has no out_indices: it always returns strides 4, 8, 16 and 32')
        dims = self.embed_dims
        self.interaction_indexes = self._runs_of(interaction_indexes)
        if vit_feature_from not in ('last', 'each'):
            raise ValueError(f'vit_feature_from is {vit_feature_from!r}; the names are last, each')
        if vit_feature_from == 'each' and len(self.interaction_indexes) != 4:
            raise ValueError(
                "vit_feature_from='each' adds the map after each of four runs to an output, but interaction_indexes "
                f'has {len(self.interaction_indexes)} runs'
            )
        self.add_vit_feature = flag('add_vit_feature', add_vit_feature)
        self.vit_feature_from = vit_feature_from
        norm_cfg = mapping('norm_cfg', norm_cfg) or dict(type='SyncBN')
        self.level_embed = nn.Parameter(torch.zeros(3, dims))
        self.spm = SpatialPrior(
            dims, whole('conv_inplane', conv_inplane), norm_cfg, self.patch_embed.stem[0].in_channels
        )
        heads = (8 if dims == 448 else 6) if deform_num_heads is None else whole('deform_num_heads', deform_num_heads)
        attn_cfg = dict(num_heads=heads, n_points=whole('n_points', n_points))
        attn_cfg['ratio'] = positive('deform_ratio', deform_ratio)
        cffn_ratio = positive('cffn_ratio', cffn_ratio) if flag('with_cffn', with_cffn) else None
        if not is_number(init_values):
            raise ValueError(f'init_values must be a number, got {init_values!r}')
        extras = [0] * (len(self.interaction_indexes) - 1) + [2 * flag('use_extra_extractor', use_extra_extractor)]
        self.interactions = nn.ModuleList(
            Interaction(dims, attn_cfg, cffn_ratio, drop_path_rate, extra, float(init_values)) for extra in extras
        )
        self.up = nn.ConvTranspose2d(dims, dims, 2, 2)
        for i in range(1, 5):
            self.add_module(f'ad_norm{i}', make_norm(norm_cfg, dims))
        nn.init.normal_(self.level_embed)
        self._initialise_ffns()
        self.set_pruning(pruning)

    def _initialise_ffns(self) -> None:
        for module in self.interactions.modules():
            if hasattr(module, 'fc1'):
                for linear in (module.fc1, module.fc2):
                    nn.init.trunc_normal_(linear.weight, std=0.02)
                    nn.init.zeros_(linear.bias)

    def _runs_of(self, given: Sequence[Sequence[int]] | None) -> list[tuple[int, int]]:
        """First and last layer of each run; raises ValueError where they do not cover the layers in order."""
        if given is None:
            return equal_quarters(self.num_layers)
        are_runs = is_list(given) and all(is_list(run) and len(run) and all(map(is_whole, run)) for run in given)
        runs = [(int(run[0]), int(run[-1])) for run in given] if are_runs else []
        covered = [i for first, last in runs for i in range(first, last + 1)]
        if covered != list(range(self.num_layers)) or any(first > last for first, last in runs):
            raise ValueError(
                f'interaction_indexes must be runs of layers, each (first, last), that cover layers 0 to '
                f'{self.num_layers - 1} in order, e.g. {equal_quarters(self.num_layers)}; got {given!r}'
            )
        return runs

    @property
    def feature_info(self) -> FeatureInfo:
        """As in the base: four strides."""
        return FeatureInfo([{'num_chs': self.embed_dims, 'reduction': stride} for stride in (4, 8, 16, 32)])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> four maps (B, C, H/s, W/s) at strides s of 4, 8, 16, 32."""
        height, width = images.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(
                f'PlainMambaAdapter needs sides divisible by 32, got an image of {height}x{width}; {padding_advice(32)}'
            )
        c1, c, c_shapes = self._spatial_prior(images)
        x, hw_shape = self.embed(images)
        points_x = grid_reference_points([hw_shape], x)
        points_c = grid_reference_points(c_shapes, x)
        (stage,) = self.stages
        streams, tokens = self.enter(0, x, hw_shape)
        maps = []
        for interaction, (first, last) in zip(self.interactions, self.interaction_indexes, strict=True):
            points = _at_kept(points_x, tokens, x.shape[0])
            streams = (self._run(interaction.injector, *streams, points, c, c_shapes),)
            for layer in range(first, last + 1):
                streams, tokens = self.run_layer(stage, layer, streams, tokens)  # where tokens die
            (full,) = self.pruner.restore(streams, tokens)  # where they return
            c = self._run(interaction.extract, c, points_c, full, hw_shape, c_shapes)
            maps.append(full.transpose(1, 2).unflatten(2, hw_shape))
        if self.vit_feature_from == 'last':
            maps = maps[-1:] * 4
        return self._pyramid(c1, c, c_shapes, maps)

    @property
    def output_layers(self) -> tuple[int, ...]:
        """Layers after which the extractors read the full map."""
        return tuple(last for _, last in self.interaction_indexes)

    def _spatial_prior(self, images: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """The map at stride 4, the tokens of strides 8, 16, 32 in one sequence, and their grids."""
        height, width = images.shape[-2:]
        c1, *levels = self.spm(images)
        c = torch.cat([level + embed for level, embed in zip(levels, self.level_embed, strict=True)], dim=1)
        return c1, c, [(height // s, width // s) for s in (8, 16, 32)]

    def _pyramid(
        self, c1: Tensor, c: Tensor, c_shapes: list[tuple[int, int]], taps: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Fold the spatial tokens into maps, add the tapped maps at their strides, normalise."""
        parts = c.split([h * w for h, w in c_shapes], dim=1)
        c2, c3, c4 = (p.transpose(1, 2).unflatten(2, hw).contiguous() for p, hw in zip(parts, c_shapes, strict=True))
        maps = [self.up(c2) + c1, c2, c3, c4]
        if self.add_vit_feature:
            maps = [m + _resize(tap, scale) for m, tap, scale in zip(maps, taps, (4, 2, 1, 0.5), strict=True)]
        return tuple(getattr(self, f'ad_norm{i}')(m) for i, m in enumerate(maps, start=1))


def _resize(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else F.interpolate(x, scale_factor=scale, mode='bilinear', align_corners=False)


def _at_kept(points: Tensor, tokens: TokenState, batch: int) -> Tensor:
    """Reference points (1, L, 1, 2) of all cells, or (B, K, 1, 2) of the kept ones."""
    if tokens.kept is None:
        return points
    return tokens.kept.gather(points.expand(batch, -1, -1, -1).flatten(2)).unsqueeze(2)
