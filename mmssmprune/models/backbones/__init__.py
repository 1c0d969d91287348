"""The pruned backbones."""

from .base import PrunableBackbone, set_keep_ratio
from .plain_mamba import PlainMamba
from .plain_mamba_adapter import PlainMambaAdapter
from .vim import Vim

__all__ = ['PlainMamba', 'PlainMambaAdapter', 'PrunableBackbone', 'Vim', 'set_keep_ratio']
