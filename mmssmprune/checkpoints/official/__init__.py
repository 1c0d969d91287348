"""Checkpoints of the official PlainMamba, Vim and VMamba repositories, to this package's layout and back."""

from .convert import convert_to_official, convert_to_ours, write_converted
from .layouts import architectures, is_official_classifier
from .report import ConversionReport

__all__ = [
    'ConversionReport',
    'architectures',
    'convert_to_official',
    'convert_to_ours',
    'is_official_classifier',
    'write_converted',
]
