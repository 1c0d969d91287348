"""Depthwise convolution of tokens that stand at all or some cells of a grid, at the cells where it is asked for.

`operator` has the torch.library operator and the choice of what computes it: `naive`, `torch` (over the whole grid),
`cpp` or `triton`. `inputs` is what they all receive. A backend module has ``forward(inputs)``, which returns the
output, and ``backward(inputs, grad_out)``, which returns the gradients of x, weight and bias, all in the dtype of their
operand.
"""

from .operator import CONV_BACKENDS, kept_conv

__all__ = ['CONV_BACKENDS', 'kept_conv']
