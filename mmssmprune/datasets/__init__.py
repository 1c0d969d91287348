"""The small data sets that the project makes itself, in COCO and ADE20K format, and the check that data are there."""

from .build import DATA_SETS, Settings, is_made, make_data_set, scenes_of
from .data_root import check_data_root, stated_paths

__all__ = ['DATA_SETS', 'Settings', 'check_data_root', 'is_made', 'make_data_set', 'scenes_of', 'stated_paths']
