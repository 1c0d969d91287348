"""Backbones and a neck for mmdet and mmseg configs; importing this registers them in mmengine's root registry."""

from mmssmprune._stack import check_stack, make_torchvision_importable, wants_mmcv

check_stack()  # before mmcv's own import errors, which do not say what to install
make_torchvision_importable()

from mmssmprune._mmengine import HAS_MMENGINE  # noqa: E402

from .backbones import PlainMamba, Vim, VMamba, set_keep_ratio  # noqa: E402
from .keep_ratio import keep_ratio_set_to  # noqa: E402

__all__ = ['PlainMamba', 'VMamba', 'Vim', 'keep_ratio_set_to', 'set_keep_ratio']

if HAS_MMENGINE:
    from .run_log import follow_operators

    follow_operators()

if wants_mmcv():
    from mmssmprune.checkpoints.guards import guard_mmengine  # with it come mmengine's runner and OpenCV

    from .backbones import PlainMambaAdapter
    from .necks import SimpleFeaturePyramid

    __all__ += ['PlainMambaAdapter', 'SimpleFeaturePyramid']
    guard_mmengine()
