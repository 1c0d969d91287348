"""LayerNorm over the channels of maps, which neither mmengine, mmcv nor mmdet registers."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module('LN2d')
class LayerNorm2d(nn.LayerNorm):
    """Normalise every cell of (B, C, H, W) over its channels; as ``norm_cfg=dict(type='LN2d', eps=1e-6)``."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2).contiguous()
