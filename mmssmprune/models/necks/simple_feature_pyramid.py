"""The simple feature pyramid of ViTDet (arXiv 2203.16527): many strides from the one map of a plain backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmssmprune._values import is_list, is_whole, whole
from mmssmprune.models.layers.norm import make_norm

from . import layer_norm_2d  # noqa: F401  (registers the default norm)


class _NormedConv(nn.Conv2d):
    """A convolution without bias, and its norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm_cfg: dict):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = make_norm(norm_cfg, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Strides 4, 8, 16, 32 and 64 from one map at stride 16; each but the last by convolutions of its own.

    Transposed convolutions of side 2 go up (two with a norm and GELU between them for stride 4, one for stride 8),
    max pooling of side 2 goes down to stride 32; then a 1x1 and a 3x3 convolution, each with a norm. Stride 64 takes
    every second cell of stride 32, as detectron2's LastLevelMaxPool does. State-dict keys equal detectron2's
    (``simfp_2`` to ``simfp_5``, the number being log2 of the stride).

    Args:
        in_channels: channels of the map; a multiple of 4. A list of one number goes too, as mmdet's necks have it.
        out_channels: channels of every output.
        norm_cfg: the norms; None means LayerNorm over the channels, as in the paper.
        init_cfg: as in mmengine.

    Raises:
        ValueError: ``in_channels`` is no multiple of 4, or the input is not one map of so many channels with sides of
            at least 2.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int = 256,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        channels = list(in_channels) if is_list(in_channels) else [in_channels]
        if len(channels) != 1 or not is_whole(channels[0]) or channels[0] < 4 or channels[0] % 4:
            raise ValueError(
                f'SimpleFeaturePyramid.in_channels must be a multiple of 4, the width of the one map, got {in_channels}'
            )
        (dims,) = channels
        self.in_channels = dims = int(dims)
        out_channels = whole('SimpleFeaturePyramid.out_channels', out_channels)
        norm_cfg = norm_cfg or dict(type='LN2d', eps=1e-6)
        norm = make_norm(norm_cfg, dims // 2)
        quadruple = [_up(dims, dims // 2), norm, nn.GELU(), _up(dims // 2, dims // 4)]
        resizings = {
            2: (quadruple, dims // 4),
            3: ([_up(dims, dims // 2)], dims // 2),
            4: ([], dims),
            5: ([nn.MaxPool2d(2, 2)], dims),
        }
        for stage, (resizing, width) in resizings.items():
            convs = [
                _NormedConv(width, out_channels, 1, norm_cfg),
                _NormedConv(out_channels, out_channels, 3, norm_cfg),
            ]
            self.add_module(f'simfp_{stage}', nn.Sequential(*resizing, *convs))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, C, h, w) at stride 16, in a sequence -> five (B, out_channels, ...) at strides 4 to 64.

        Their sides are 4, 2 and 1 times h and w, then half of them rounded down and half of that rounded up.
        """
        shapes = [tuple(x.shape) for x in inputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != self.in_channels or min(shapes[0][2:]) < 2:
            raise ValueError(
                f'SimpleFeaturePyramid takes one map of {self.in_channels} channels and sides of at least 2, e.g. '
                f'with out_indices=(23,) in the backbone; got {shapes}'
            )
        (x,) = inputs
        outs = [getattr(self, f'simfp_{stage}')(x) for stage in (2, 3, 4, 5)]
        return (*outs, F.max_pool2d(outs[-1], kernel_size=1, stride=2))


def _up(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, 2)
