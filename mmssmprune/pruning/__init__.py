"""Token pruning for selective scans: which cells live, how the state crosses the rest, how maps become full again."""

from .alignment import ALIGNMENT, time_at_pruned_cells
from .conv_fill import causal_conv_over_sequence, conv_over_grid, module_over_grid
from .importance import IMPORTANCE, LayerTrace, RawDelta, register_importance
from .kept_tokens import KeptTokens, choose_tokens, gather_rows
from .plan import PrunePlan, make_plan
from .pruner import TokenPruner
from .reduction import REDUCTION
from .restoration import RESTORATION
from .scan_path import ScanPath, Walk, sequence_path, snake_path
from .token_state import TokenState

__all__ = [
    'ALIGNMENT',
    'IMPORTANCE',
    'REDUCTION',
    'RESTORATION',
    'KeptTokens',
    'LayerTrace',
    'PrunePlan',
    'RawDelta',
    'ScanPath',
    'TokenPruner',
    'TokenState',
    'Walk',
    'causal_conv_over_sequence',
    'choose_tokens',
    'conv_over_grid',
    'gather_rows',
    'make_plan',
    'module_over_grid',
    'register_importance',
    'sequence_path',
    'snake_path',
    'time_at_pruned_cells',
]
