"""What the kernels take, as named tuples: Triton passes them through to functions inside a kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

# How a walk is known: from an array, as the four snakes or lines over a grid, or as the sequence forward and backward.
ARRAY, SNAKE, LINES, SEQUENCE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


class Rows(NamedTuple):
    """Rows of channels: a pointer, and the strides of plane, image and token; channels are adjacent.

    A plane belongs to a direction; the stride is 0 where all directions share it.
    """

    ptr: Any
    plane: int = 0
    batch: int = 0
    token: int = 0


class Walk(NamedTuple):
    """Pointers to integers (B, R, K) or None, strides from image to image (0 if all share one), and the sizes."""

    order: Any
    move: Any
    gap: Any
    order_batch: int
    move_batch: int
    tokens: int
    width: int


class Inputs(NamedTuple):
    """The operands: `Rows` where there are tokens or moves, else pointers; None if absent; and D, N and chunks."""

    u: Rows
    delta: Rows
    B: Rows
    C: Rows
    direction_B: Rows | None
    gap_time: Rows | None
    A: Any
    D: Any
    delta_bias: Any
    delta_gap: Any
    walk: Walk
    channels: int
    states: int
    chunks: int


class Plan(NamedTuple):
    """Compile-time constants: R directions, sets of inputs u and of parameters, how to walk, how the work is cut.

    ``APART``: every chunk is a program of its own. ``MOVES``: rows of direction_B, a power of two.
    """

    R: tl.constexpr
    INPUTS: tl.constexpr
    SETS: tl.constexpr
    PATH: tl.constexpr
    PERMUTE: tl.constexpr
    SOFTPLUS: tl.constexpr
    APART: tl.constexpr
    CHUNK: tl.constexpr
    STEPS: tl.constexpr
    BLOCK_D: tl.constexpr
    BLOCK_N: tl.constexpr
    MOVES: tl.constexpr


class Grads(NamedTuple):
    """Where gradients go: `Rows` for the operands per token, pointers to partial sums for the others, or None.

    ``u`` has a plane per direction, or a single one, zero at first, where one program adds up directions that share
    it. ``delta`` has a plane per direction, or one that all share in raster order; ``B`` and ``C`` have such planes for
    each block of channels. Shapes of the others: ``A`` (programs, S, D, N); ``D``, ``delta_bias``, ``delta_gap``
    (programs, S, D); ``direction_B`` (programs, blocks, MOVES, N). ``gap_time`` has a plane per direction.
    """

    u: Rows
    delta: Rows
    B: Rows
    C: Rows
    A: Any
    D: Any
    delta_bias: Any
    delta_gap: Any
    direction_B: Any
    gap_time: Rows | None
