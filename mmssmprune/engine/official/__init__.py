"""Checkpoints of the official PlainMamba and Vim repositories, to this package's layout and back."""

from .convert import convert_to_official, convert_to_ours
from .files import check_destination, write_converted
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
