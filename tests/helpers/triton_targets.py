"""Compile the Triton kernels of a forward and backward pass for a GPU that is not there.

Usage: python tests/helpers/triton_targets.py COMPUTE_CAPABILITY [all]   (80, 90, ...); not with TRITON_INTERPRET=1.
Prints one line per kernel: its name, and the size of its machine code. Without `all` only Vim's two directions,
chunks apart.
"""

from __future__ import annotations

import sys

import torch
from multi_operands import multi_operands, rounded
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from mmssmprune.ops.scan.inputs import ScanInputs


class AbsentGPU:
    """What Triton asks of its driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget('cuda', int(sys.argv[1]), 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device('cpu')


class Compiled:
    """Compiles a kernel where it would be launched."""

    def __init__(self, kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid):
        def compile_for(*operands, **constants) -> None:
            compiled = self.kernel.warmup(*operands, grid=grid, **constants)
            print(self.kernel.fn.__name__, len(compiled.asm['cubin']))

        return compile_for


def inputs(**choice) -> ScanInputs:
    leaves, options = multi_operands(**choice)
    leaves = rounded(leaves, torch.bfloat16)
    names = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'direction_B', 'delta_gap')
    order, move = (None if t is None else t.expand(2, -1, -1) for t in (options.get('order'), options.get('move')))
    directions = 2 if choice.get('walk') == 'sequence' else 4
    width = options['hw_shape'][1] if 'hw_shape' in options else 0
    permute = options['param_order'] == 'scan'
    walks = order, move, options.get('gap'), directions, width, options.get('walk') == 'lines'
    return ScanInputs(*(leaves.get(name) for name in names), *walks, True, permute)


def main() -> None:
    driver.set_active(AbsentGPU())
    from mmssmprune.ops.scan import triton_kernels as launch

    for name in [name for name in vars(launch) if name.endswith('_kernel')]:
        setattr(launch, name, Compiled(getattr(launch, name)))
    for name in ('FORWARD', 'BACKWARD'):  # small blocks: what compiles is the same, in a fraction of the time
        setattr(launch, name, getattr(launch, name)._replace(states=32))
    choices = [dict(walk='sequence', own_parameters=True, kept=9)]
    if sys.argv[2:] == ['all']:
        choices += [dict(), dict(kept=9), dict(without=('D', 'z', 'delta_bias', 'direction_B'))]
    for choice in choices:
        launch.ENOUGH_PROGRAMS = 10**9 if choice is choices[0] else 0
        p = inputs(**choice)
        out, total, before = launch.forward(p, 8)
        launch.backward(p, total, before, out, 8)


if __name__ == '__main__':
    main()
