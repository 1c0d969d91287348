"""Token pruning for vision state space models: backbones, pruning and measurement for mmdet and mmseg.

Importing this module imports nothing else, so that ``mmssmprune.ops`` works with torch alone. Configs import
``mmssmprune.models`` (through ``custom_imports``), which registers the backbones. For any other project there are
`create_backbone`, `list_backbones`, `save_pretrained` and `from_pretrained`, which need torch alone.
"""

from typing import Any

__version__ = '0.1.0'
_DOOR = ('create_backbone', 'from_pretrained', 'list_backbones', 'save_pretrained')


def __getattr__(name: str) -> Any:
    """What works without mmengine, mmcv, mmdet and mmseg, imported when it is asked for."""
    if name not in _DOOR:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmssmprune._stack import allow_torch_alone

    allow_torch_alone()
    from mmssmprune.models import create

    return getattr(create, name)


def __dir__() -> list[str]:
    return [*globals(), *_DOOR]
