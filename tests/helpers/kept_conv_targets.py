"""Compile the Triton kernels of the convolution for a GPU that is not there; forward and backward, 3x3.

Usage: python tests/helpers/kept_conv_targets.py COMPUTE_CAPABILITY   (80, 90, ...); not with TRITON_INTERPRET=1.
Prints one line per kernel: its name, and the size of its machine code.
"""

from __future__ import annotations

import torch
from kept_conv_operands import conv_operands, rounded
from triton.runtime import driver
from triton_targets import AbsentGPU, Compiled

from mmssmprune.ops.kept_conv.inputs import ConvInputs


def main() -> None:
    driver.set_active(AbsentGPU())
    from mmssmprune.ops.kept_conv import triton_kernels

    for name in ('conv_kernel', 'sums_kernel'):
        setattr(triton_kernels, name, Compiled(getattr(triton_kernels, name)))
    leaves, options = conv_operands('3x3')
    leaves = {name: t.detach() for name, t in rounded(leaves, torch.bfloat16).items()}
    tokens = (options['cells'], options['slot'])
    p = ConvInputs(*leaves.values(), *tokens, *tokens, *options['hw_shape'], *options['origin'])
    triton_kernels.backward(p, triton_kernels.forward(p))


if __name__ == '__main__':
    main()
