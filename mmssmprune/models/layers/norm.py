"""Norms by their config."""

from __future__ import annotations

from typing import Any

from torch import nn


def make_norm(norm_cfg: Any, dims: int) -> nn.Module:
    """The norm over ``dims`` channels that mmcv builds; raises ValueError where it cannot."""
    from mmcv.cnn import build_norm_layer  # here, so that Vim imports without mmcv

    try:
        return build_norm_layer(norm_cfg, dims)[1]
    except (KeyError, TypeError, AssertionError) as error:
        what = error.args[0] if error.args else type(error).__name__
        raise ValueError(
            f"norm_cfg must be the config of a norm such as dict(type='BN'), got {norm_cfg!r}: {what}"
        ) from None
