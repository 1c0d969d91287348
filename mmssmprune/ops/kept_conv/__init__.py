"""Depthwise convolution of tokens that stand at all or some cells of a grid, at the cells where it is asked for.

`operator` has the torch.library operator, `backends` chooses what computes it: `naive`, `dense_grid` (named torch),
`cpp` or `triton`. A backend module has ``forward(inputs)``, which returns the output, and
``backward(inputs, grad_out)``, which returns the gradients of x, weight and bias, all in the dtype of their operand.
"""

from .operator import kept_conv

__all__ = ['kept_conv']
