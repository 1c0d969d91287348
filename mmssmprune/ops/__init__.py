"""Selective scan and its aligned form over kept tokens. Needs torch alone."""

from .aligned_scan import aligned_selective_scan
from .backends import available_backends
from .kept_conv import kept_conv
from .multi_scan import multi_scan
from .selective_scan import selective_scan

__all__ = ['aligned_selective_scan', 'available_backends', 'kept_conv', 'multi_scan', 'selective_scan']
