"""The input projection of a Mamba mixer, in parts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def project_x_half(x: Tensor, in_proj: nn.Linear) -> Tensor:
    """(..., C) -> (..., d_inner): the half of ``in_proj`` that feeds the convolution; the gate is left out."""
    half = in_proj.out_features // 2
    return F.linear(x, in_proj.weight[:half], None if in_proj.bias is None else in_proj.bias[:half])
