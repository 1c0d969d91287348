"""The selective scan of a mixer, along one direction or several.

`operator` has the torch.library operator and the choice of what computes it: `naive`, `torch`, `cpp`, `mamba_ssm` or
`triton`. `inputs` is what they all receive, and `sequences` unfolds it for those that know one direction only.
"""

from .operator import SCAN_BACKENDS, available_backends, multi_scan
from .selective_scan import aligned_selective_scan, selective_scan

__all__ = ['SCAN_BACKENDS', 'aligned_selective_scan', 'available_backends', 'multi_scan', 'selective_scan']
