"""Token pruning for vision state space models: backbones, pruning and measurement for mmdet and mmseg.

Importing this module imports nothing else, so that ``mmssmprune.ops`` works with torch alone. Configs import
``mmssmprune.models`` (through ``custom_imports``), which registers the backbones.
"""

__version__ = '0.1.0'
