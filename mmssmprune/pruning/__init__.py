"""Token pruning for selective scans: which cells live, how the state crosses the rest, how maps become full again."""

from .alignment import ALIGNMENT, register_alignment, time_at_pruned_cells
from .conv_fill import (
    CONV_FILL,
    causal_conv_over_sequence,
    conv_over_grid,
    module_over_grid,
    register_conv_fill,
)
from .importance import IMPORTANCE, LayerTrace, RawDelta, register_importance
from .kept_tokens import KeptTokens, choose_tokens, gather_rows
from .plan import PrunePlan, make_plan
from .pruner import TokenPruner
from .reduction import REDUCTION, Reduced, register_reduction
from .restoration import RESTORATION, register_restoration
from .scan import scan_over_tokens
from .scan_fill import SCAN_FILL, register_scan_fill
from .scan_order import ScanOrder, line_scan, sequence_scan, snake_scan
from .stage import Stage
from .token_state import TokenState

__all__ = [
    'ALIGNMENT',
    'CONV_FILL',
    'IMPORTANCE',
    'REDUCTION',
    'RESTORATION',
    'SCAN_FILL',
    'KeptTokens',
    'LayerTrace',
    'PrunePlan',
    'RawDelta',
    'Reduced',
    'ScanOrder',
    'Stage',
    'TokenPruner',
    'TokenState',
    'causal_conv_over_sequence',
    'choose_tokens',
    'conv_over_grid',
    'gather_rows',
    'line_scan',
    'make_plan',
    'module_over_grid',
    'register_alignment',
    'register_conv_fill',
    'register_importance',
    'register_reduction',
    'register_restoration',
    'register_scan_fill',
    'scan_over_tokens',
    'sequence_scan',
    'snake_scan',
    'time_at_pruned_cells',
]
