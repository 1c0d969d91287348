"""Measuring: FLOPs, latency, accuracy, and the comparison that tabulates and draws them.

Importing this registers in mmengine's root registry the hook that draws tokens during a training, so that configs may
use it by name. It imports neither mmdet nor mmseg. Without mmengine the operators can still be timed.
"""

from importlib.util import find_spec

__all__ = []
if find_spec('mmengine') is not None:
    from .token_pictures.hook import TokenVisualizationHook

    __all__ += ['TokenVisualizationHook']
