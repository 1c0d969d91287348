"""Vision Mamba (Vim, arXiv 2401.09417), dense or with token pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmssmprune._mmengine import MODELS
from mmssmprune._values import arguments, flag, mapping, rate, sides, whole
from mmssmprune.models.layers.drop_path import DropPath
from mmssmprune.models.layers.norm import make_norm
from mmssmprune.models.layers.patch_embed import ConvPatchEmbed, resize_pos_embed
from mmssmprune.models.layers.vim_block import RMSNorm, VimBlock, VimMixer
from mmssmprune.pruning import ScanOrder, Stage, TokenState, sequence_scan
from mmssmprune.pruning.kept_tokens import gather_rows

from .base import FeatureInfo, PrunableBackbone, drop_path_rates, resolve_arch, resolve_out_indices


@MODELS.register_module()
class Vim(PrunableBackbone):
    """Vim: patches in raster order, blocks that scan the sequence forward and backward.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` (or T, S, B; any case), or a dict with ``embed_dims``, ``num_layers``
            and optionally ``mixer_cfg``.
        img_size: side of the training images in pixels, or (H, W); sets the grid of the position embedding.
        patch_size, stride: of the patch convolution; ``stride`` None means ``patch_size``.
        in_channels: channels of the image.
        out_indices: blocks whose output is returned, 0-based; negative numbers count from the end.
        out_type: ``'featmap'`` for maps; ``'cls_token'`` for the class token of the last block, normalised (B, C), the
            mean where there are two, which the official classifier reads; ``'avg_featmap'`` for the mean over the
            patches that are left instead, as it reads without a class token.
        drop_path_rate: stochastic depth; block i drops its incoming hidden state at the rate of block i - 1.
        final_norm: return ``norm_f(residual + hidden)`` for the last block. Without it, and for every earlier block,
            the map is the mixer's output alone, as in the official segmentation backbone.
        if_cls_token: insert a class token.
        use_middle_cls_token: put it in the middle of the sequence (the released models) rather than at the head.
        use_double_cls_token: one class token at each end instead.
        if_divide_out: halve the sum of the two branches.
        with_fpn: the segmentation and detection form: four outputs pass a ViTDet-like pyramid and come at strides
            4, 8, 16, 32 (for patches of 16). Implies ``final_norm=False``, and needs four out_indices.
        norm_cfg: norm inside the pyramid.
        embed_dims, num_layers, mixer_cfg: override the settings of ``arch``.
        pruning, with_cp, init_cfg: as in `PlainMamba`. Class tokens are never pruned and not counted.

    State-dict keys equal those of the official repository (hustvl/Vim). Weights with a class token load into a model
    without one: as in the official code row 0 of their position embedding is dropped, although it is the row of the
    first patch where the class token is in the middle.
    """

    arch_zoo = {  # noqa: RUF012
        'tiny': dict(embed_dims=192, num_layers=24, mixer_cfg={}),
        'small': dict(embed_dims=384, num_layers=24, mixer_cfg={}),
        'base': dict(embed_dims=768, num_layers=24, mixer_cfg={}),
    }
    optional_in_checkpoint = (*PrunableBackbone.optional_in_checkpoint, 'fpn')
    out_types = ('featmap', 'avg_featmap', 'cls_token')
    mixer_class = VimMixer  # a subclass names another one to be Vim in all but its mixer

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        final_norm: bool = True,
        if_cls_token: bool = True,
        use_middle_cls_token: bool = True,
        use_double_cls_token: bool = False,
        if_divide_out: bool = True,
        with_fpn: bool = False,
        norm_cfg: dict | None = None,
        embed_dims: int | None = None,
        num_layers: int | None = None,
        mixer_cfg: dict | None = None,
        pruning: dict | None = None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ):
        zoo = {**self.arch_zoo, **{name[0]: settings for name, settings in self.arch_zoo.items()}}
        overrides = dict(embed_dims=embed_dims, num_layers=num_layers, mixer_cfg=mixer_cfg)
        settings = resolve_arch(arch, zoo, overrides)
        flags = dict(final_norm=final_norm, if_cls_token=if_cls_token, use_middle_cls_token=use_middle_cls_token)
        flags.update(use_double_cls_token=use_double_cls_token, if_divide_out=if_divide_out, with_fpn=with_fpn)
        for name, value in flags.items():
            flag(name, value)
        super().__init__(with_cp, init_cfg, out_type)
        self.embed_dims = settings['embed_dims']
        depth = settings['num_layers']
        self.out_indices = resolve_out_indices(out_indices, depth)
        self._check_classifier(depth, if_cls_token, with_fpn, final_norm)
        self.cls_layout = _cls_layout(if_cls_token, use_middle_cls_token, use_double_cls_token)
        patch_size, in_channels = whole('patch_size', patch_size), whole('in_channels', in_channels)
        stride = patch_size if stride is None else whole('stride', stride)
        self.patch_embed = ConvPatchEmbed(in_channels, self.embed_dims, patch_size, stride)
        self.pos_hw = self.patch_embed.grid_of(sides('img_size', img_size))
        for name in self._cls_names:
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, self.embed_dims)))
        rows = self.pos_hw[0] * self.pos_hw[1] + len(self._cls_names)
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, self.embed_dims))
        given = arguments('mixer_cfg', settings.get('mixer_cfg'), self.mixer_class, ('embed_dims',))
        mixer_cfg = dict(given, if_divide_out=if_divide_out)
        drop_path_rate = rate('drop_path_rate', drop_path_rate)
        rates = [0.0, *drop_path_rates(drop_path_rate, depth)][:depth]
        self.layers = nn.ModuleList(
            VimBlock(self.embed_dims, mixer_cfg, dropped, self.mixer_class) for dropped in rates
        )
        self.drop_path = DropPath(drop_path_rate)
        self.norm_f = RMSNorm(self.embed_dims)
        self.final_norm = final_norm and not with_fpn
        if not self.final_norm:
            self.norm_f.requires_grad_(False)  # the key exists officially, but DDP refuses parameters without gradient
        self.with_fpn = with_fpn
        if with_fpn:
            self._make_fpn(mapping('norm_cfg', norm_cfg) or dict(type='SyncBN'))
        self._initialise()
        self.set_pruning(pruning)

    @property
    def _cls_names(self) -> tuple[str, ...]:
        names = {'none': (), 'double': ('cls_token_head', 'cls_token_tail')}
        return names.get(self.cls_layout, ('cls_token',))

    def _check_classifier(self, depth: int, if_cls_token: bool, with_fpn: bool, final_norm: bool) -> None:
        """Refuse an out_type that the other settings leave without what it is read from."""
        if self.out_type == 'cls_token' and not if_cls_token:
            raise ValueError("out_type 'cls_token' needs a class token: set if_cls_token=True, or use 'avg_featmap'")
        if self.returns_vector and with_fpn:
            raise ValueError(f'with_fpn makes a pyramid of maps, and out_type {self.out_type!r} returns none')
        self._check_vector(depth, final_norm)

    def _make_fpn(self, norm_cfg: dict) -> None:
        if len(self.out_indices) != 4:
            raise ValueError(f'with_fpn needs four out_indices, got {list(self.out_indices)}')
        dims = self.embed_dims
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(dims, dims, 2, 2),
            make_norm(norm_cfg, dims),
            nn.GELU(),
            nn.ConvTranspose2d(dims, dims, 2, 2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(dims, dims, 2, 2))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2, 2)

    def _initialise(self) -> None:
        for name in ('pos_embed', *self._cls_names):
            nn.init.trunc_normal_(getattr(self, name), std=0.02)
        for block in self.layers:
            block.mixer.initialise(len(self.layers))

    @property
    def stages(self) -> tuple[Stage]:
        """One: every block sees the same sequence, and each of its two directions has its own parameters."""
        mixer = self.layers[0].mixer
        return (Stage(self.layers, self.embed_dims, mixer.d_inner, along_sequence=True, scan_fill='neighbours'),)

    def grids_of(self, hw: tuple[int, int]) -> list[tuple[int, int]]:
        """The token grid (h, w) of an image of (H, W) pixels, in a list."""
        return [self.patch_embed.grid_of(hw)]

    def scan_order(self, hw_shape: tuple[int, int], device: torch.device) -> ScanOrder:
        """The sequence forward and backward."""
        return sequence_scan(hw_shape[0] * hw_shape[1] + self.num_extra_tokens, device)

    @property
    def num_extra_tokens(self) -> int:
        """Class tokens in the sequence."""
        return len(self._cls_names)

    def class_token_places(self, hw_shape: tuple[int, int]) -> tuple[int, ...]:
        """Where the class tokens stand in the sequence over a grid."""
        cells = hw_shape[0] * hw_shape[1]
        layouts = {'none': (), 'head': (0,), 'middle': (cells // 2,), 'double': (0, cells + 1)}
        return layouts[self.cls_layout]

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> the sequence (B, L, C), class tokens and positions included, and the grid (h, w)."""
        x, hw_shape = self.patch_embed(images)
        # The class token goes in before positions are added, so the rows of pos_embed are in sequence order.
        for position, name in zip(self.class_token_places(hw_shape), self._cls_names, strict=True):
            cls_token = getattr(self, name).expand(x.shape[0], -1, -1)
            x = torch.cat([x[:, :position], cls_token, x[:, position:]], dim=1)
        return x + self.pos_embed_of(hw_shape), hw_shape

    def pos_embed_of(self, hw_shape: tuple[int, int]) -> Tensor:
        """Position embedding (1, L, C), the rows of the class tokens included."""
        return resize_pos_embed(self.pos_embed, self.pos_hw, hw_shape, len(self._cls_names))

    def enter(self, number: int, x: Tensor, hw_shape: tuple[int, int]) -> tuple[tuple[Tensor, ...], TokenState]:
        """The embedding as the first block's hidden state, without a residual beside it yet."""
        (hidden,), tokens = super().enter(number, x, hw_shape)
        return (hidden, None), tokens

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one map (B, C, h, w) per out_index, pruned cells restored; with_fpn: four strides.

        With another ``out_type`` than 'featmap': one vector (B, C).
        """
        outs = super().forward(images)
        if self.with_fpn:
            outs = tuple(getattr(self, f'fpn{i}')(x) for i, x in enumerate(outs, start=1))
        return outs

    @property
    def feature_info(self) -> FeatureInfo:
        """As in the base; of a pyramid, its strides."""
        info = super().feature_info
        factors = (0.25, 0.5, 1, 2) if self.with_fpn else (1,) * len(info)
        return FeatureInfo(
            [{**one, 'reduction': int(one['reduction'] * k)} for one, k in zip(info, factors, strict=True)]
        )

    def output(self, layer: int, streams: tuple[Tensor, ...], tokens: TokenState) -> Tensor:
        """What is returned of a block: the map (B, C, h, w) of its mixer's output, or of the normalised stream after
        the last one; or a vector (B, C) of that stream.
        """
        if self.returns_vector:
            return self._pool(self._norm(*streams), tokens)
        if not self.final_norm or layer != self.num_layers - 1:
            (hidden,) = self.pruner.restore(streams[:1], tokens)
            return self._to_map(hidden, tokens)
        return self._to_map(self._norm(*self.pruner.restore(streams, tokens)), tokens)

    def _norm(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """The stream after the last block, normalised."""
        return self.norm_f((residual + self.drop_path(hidden)).to(self.norm_f.weight.dtype))

    def _pool(self, x: Tensor, tokens: TokenState) -> Tensor:
        """The class tokens among x (B, K, C), or its patches, as their mean (B, C)."""
        if self.out_type == 'cls_token':
            # How many tokens stand before each.
            ranks = torch.stack([(tokens.positions < position).sum(1) for position in tokens.protected], 1)
            return gather_rows(x, ranks.expand(x.shape[0], -1)).mean(1)
        if not tokens.protected:
            return x.mean(1)
        is_patch = ~tokens.is_protected
        return (x * is_patch.unsqueeze(-1)).sum(1) / is_patch.sum(1, keepdim=True)

    def _to_map(self, x: Tensor, tokens: TokenState) -> Tensor:
        """Drop the class tokens of (B, L, C) and fold the patches into (B, C, h, w)."""
        return tokens.without_protected(x).transpose(1, 2).unflatten(2, tokens.hw_shape).contiguous()

    def _class_rows_of(self, state: Mapping[str, Tensor]) -> int:
        return sum(name in state for name in ('cls_token', 'cls_token_head', 'cls_token_tail'))

    def _fitted(self, pos_embed: Tensor, hw_shape: tuple[int, int], class_rows: int) -> Tensor:
        """As the official scripts do: a model without class tokens drops the first rows."""
        pos_embed = super()._fitted(pos_embed, hw_shape, class_rows)
        return pos_embed if self._cls_names or not class_rows else pos_embed[:, class_rows:]


def _cls_layout(if_cls_token: bool, use_middle_cls_token: bool, use_double_cls_token: bool) -> str:
    """Which class tokens there are, from the official flags (the double one wins, as it does there)."""
    if not if_cls_token:
        return 'none'
    if use_double_cls_token:
        return 'double'
    return 'middle' if use_middle_cls_token else 'head'
