"""What the command line tools share (configs, checked checkpoints, the Runner), and what configs use by name.

Importing this registers hooks and an optimizer constructor in mmengine's root registries. It imports neither mmdet nor
mmseg, and `mmssmprune.models` only once something is used: a tool can then tell in a sentence what is not installed.
"""

from mmssmprune.checkpoints.guards import guard_mmengine

from .distillation import DistillationHook
from .keep_ratio_hooks import ElasticKeepRatioHook, KeepRatioWarmupHook
from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = [
    'DistillationHook',
    'ElasticKeepRatioHook',
    'KeepRatioWarmupHook',
    'LayerDecayOptimWrapperConstructor',
]

guard_mmengine()
