"""The selective scan, its aligned form over kept tokens, and the convolution over them. Needs torch alone."""

from .kept_conv import kept_conv
from .scan import aligned_selective_scan, available_backends, multi_scan, selective_scan

__all__ = ['aligned_selective_scan', 'available_backends', 'kept_conv', 'multi_scan', 'selective_scan']
