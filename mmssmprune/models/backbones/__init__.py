"""The pruned backbones."""

from mmssmprune._stack import wants_mmcv

from .base import PrunableBackbone, set_keep_ratio
from .plain_mamba import PlainMamba
from .vim import Vim
from .vmamba import VMamba

__all__ = ['PlainMamba', 'PrunableBackbone', 'VMamba', 'Vim', 'set_keep_ratio']

if wants_mmcv():
    from .plain_mamba_adapter import PlainMambaAdapter

    __all__ += ['PlainMambaAdapter']
