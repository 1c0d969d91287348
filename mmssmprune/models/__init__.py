"""Backbones for mmdet and mmseg configs; importing this registers them in mmengine's root registry."""

from .backbones import PlainMamba, PlainMambaAdapter, Vim, set_keep_ratio

__all__ = ['PlainMamba', 'PlainMambaAdapter', 'Vim', 'set_keep_ratio']
