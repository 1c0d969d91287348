"""Checkpoints of the official PlainMamba and Vim repositories, to this package's layout and back."""

from mmssmprune.engine.checkpoint import check_destination

from .convert import convert_to_official, convert_to_ours
from .files import write_converted
from .layouts import ARCHITECTURES
from .report import ConversionReport

__all__ = [
    'ARCHITECTURES',
    'ConversionReport',
    'check_destination',
    'convert_to_official',
    'convert_to_ours',
    'write_converted',
]
