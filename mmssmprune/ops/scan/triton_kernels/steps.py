"""What the scan's kernels have in common: where a walk is at a step, and what has to be read there."""

# ruff: noqa: RUF005  (inside a kernel tuples grow by addition only)

from __future__ import annotations

import triton
import triton.language as tl

from .arguments import ARRAY, LINES, SEQUENCE

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def softplus(x):
    """log(1 + exp(x)) to a few ulp at any x: log1p(e) = 2 atanh(e / (2 + e)), as a series."""
    e = tl.exp(-tl.abs(x))
    s = e / (2 + e)
    q = s * s
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q / 15))))))
    return tl.maximum(x, 0.0) + 2 * s * series


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def block_of(x, plan):
    """Channels and states of this program with their masks."""
    d = tl.program_id(1) * plan.BLOCK_D + tl.arange(0, plan.BLOCK_D)
    n = tl.arange(0, plan.BLOCK_N)
    return d, d < x.channels, n, n < x.states


@triton.jit
def within(columns, count, inside):
    """The mask of ``columns`` below ``count``, all False unless ``inside``."""
    return columns < tl.where(inside, count, 0)


@triton.jit
def image_and_chunk(x, plan):
    """The image of this program, and its chunk, or the first of all."""
    program = tl.program_id(0).to(tl.int64)
    if plan.APART:
        return program // x.chunks, (program % x.chunks).to(tl.int32)
    else:
        return program, tl.full((), 0, tl.int32)


@triton.jit
def steps_in(x, c, plan):
    """How many groups of unrolled steps chunk ``c`` has."""
    return tl.cdiv(tl.minimum(x.walk.tokens - c * plan.CHUNK, plan.CHUNK), plan.STEPS)


@triton.jit
def row_at(rows, plane, b, token, columns):
    """Pointers to ``columns`` of one row."""
    start = tl.cast(plane, tl.int64) * rows.plane + b * rows.batch + tl.cast(token, tl.int64) * rows.token
    return rows.ptr + start + columns


@triton.jit
def load_row(rows, plane, b, token, columns, mask):
    return tl.load(row_at(rows, plane, b, token, columns), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_vectors(ptr, d, in_d, channels, plan):
    """A vector over channels for each direction, if there is one at all."""
    vectors = ()
    if ptr is not None:
        for r in tl.static_range(plan.R):
            if r == 0 or plan.SETS > 1:
                vector = tl.load(ptr + r * channels + d, mask=in_d, other=0.0)
            vectors = vectors + (vector,)
    return vectors


@triton.jit
def load_parameters(x, block, plan):
    """Per direction: A in units of log 2, so that exp(t A) is a power of two; delta_bias, delta_gap and D, if any."""
    d, in_d, n, in_n = block
    decays = ()
    for r in tl.static_range(plan.R):
        if r == 0 or plan.SETS > 1:
            at = r * x.channels * x.states + d[:, None] * x.states + n[None, :]
            tile = tl.load(x.A + at, mask=in_d[:, None] & in_n[None, :], other=0.0) * LOG2E
        decays = decays + (tile,)
    bias = load_vectors(x.delta_bias, d, in_d, x.channels, plan)
    gap_size = load_vectors(x.delta_gap, d, in_d, x.channels, plan)
    return decays, bias, gap_size, load_vectors(x.D, d, in_d, x.channels, plan)


@triton.jit
def zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.zeros((ROWS, COLUMNS), tl.float32),)
    return tiles


@triton.jit
def state_at(x, b, r, c, block, plan):
    """Offsets of one state in (B, R, chunks, D, N)."""
    d, _, n, _ = block
    return ((b * plan.R + r) * x.chunks + c) * x.channels * x.states + d[:, None] * x.states + n[None, :]


@triton.jit
def load_states(ptr, x, b, c, block, plan):
    """The state of every direction at chunk ``c``."""
    _, in_d, _, in_n = block
    tiles = ()
    for r in tl.static_range(plan.R):
        mask = in_d[:, None] & in_n[None, :]
        tiles = tiles + (tl.load(ptr + state_at(x, b, r, c, block, plan), mask, 0.0),)
    return tiles


@triton.jit
def store_states(ptr, tiles, x, b, c, block, plan):
    _, in_d, _, in_n = block
    for r in tl.static_range(plan.R):
        tl.store(ptr + state_at(x, b, r, c, block, plan), tiles[r], in_d[:, None] & in_n[None, :])


@triton.jit
def store_times(ptr, times, x, b, c, block, plan):
    """The time [D, 1] that chunk ``c`` takes in every direction, in (B, R, chunks, D)."""
    d, in_d, _, _ = block
    for r in tl.static_range(plan.R):
        tl.store(ptr + ((b * plan.R + r) * x.chunks + c) * x.channels + d[:, None], times[r], in_d[:, None])


@triton.jit
def cell_at(walk, b, r: tl.constexpr, t, inside, plan):
    """The token that direction ``r`` visits at step ``t``."""
    if plan.PATH == ARRAY:
        cell = tl.load(walk.order + b * walk.order_batch + tl.cast(r, tl.int64) * walk.tokens + t, inside, 0)
    elif plan.PATH == SEQUENCE:
        cell = walk.tokens - 1 - t if r == 1 else t
    elif plan.PATH == LINES:
        s = walk.tokens - 1 - t if r >= 2 else t
        height = walk.tokens // walk.width
        cell = s if r % 2 == 0 else (s % height) * walk.width + s // height
    else:
        s = walk.tokens - 1 - t if r % 2 == 1 else t
        line_length = walk.width if r < 2 else walk.tokens // walk.width
        line = s // line_length
        place = s % line_length
        place = tl.where(line % 2 == 1, line_length - 1 - place, place)
        cell = line * line_length + place if r < 2 else place * walk.width + line
    return cell


@triton.jit
def move_at(walk, b, r: tl.constexpr, t, inside, plan):
    """How direction ``r`` reached the token of step ``t``: 0 start, 1 right, 2 left, 3 up, 4 down on the snakes."""
    if plan.PATH == ARRAY:
        move = tl.load(walk.move + b * walk.move_batch + tl.cast(r, tl.int64) * walk.tokens + t, inside, 0)
    else:
        REVERSE: tl.constexpr = r % 2
        ALONG: tl.constexpr = 1 if r < 2 else 4  # towards larger numbers on the line
        BACK: tl.constexpr = 2 if r < 2 else 3
        NEXT: tl.constexpr = (4 if r < 2 else 1) if REVERSE == 0 else (3 if r < 2 else 2)
        s = walk.tokens - 1 - t if REVERSE == 1 else t
        line_length = walk.width if r < 2 else walk.tokens // walk.width
        move = tl.where((s // line_length) % 2 == REVERSE, ALONG, BACK)
        move = tl.where((s + REVERSE) % line_length == 0, NEXT, move)
        move = tl.where(t == 0, 0, move)
    return move


@triton.jit
def read_step(x, parameters, b, t, block, plan):
    """Read step ``t`` of every direction; beyond the last one no time passes and nothing comes in.

    Returns tuples over the directions: token, u [D], raw delta [D], delta [D], elapsed time [D], gap, B [N], C [N].
    What directions share is read once and is the same value, so that the compiler forms its exponentials once.
    """
    d, _, n, _ = block
    walk = x.walk
    inside = t < walk.tokens
    mask, in_states = within(d, x.channels, inside), within(n, x.states, inside)
    cells, us, raws, sizes, times, gaps, Bs, Cs = (), (), (), (), (), (), (), ()
    for r in tl.static_range(plan.R):
        cell = cell_at(walk, b, r, t, inside, plan)
        if r == 0 or plan.SETS > 1 or plan.PERMUTE:
            place = cell if plan.PERMUTE else t
            raw, size = step_size(x, parameters, r, b, place, d, mask, plan)
            B_t = load_row(x.B, r, b, place, n, in_states)
            C_t = load_row(x.C, r, b, place, n, in_states)
        cells, us = cells + (cell,), us + (load_row(x.u, r, b, cell, d, mask),)
        raws, sizes, Cs = raws + (raw,), sizes + (size,), Cs + (C_t,)
        if x.direction_B is not None:
            row = load_row(x.direction_B, 0, b, move_at(walk, b, r, t, inside, plan), n, in_states)
            Bs = Bs + (B_t + row,)
        else:
            Bs = Bs + (B_t,)
        time = size
        if walk.gap is not None:
            gap = tl.load(walk.gap + (b * plan.R + r) * walk.tokens + t, inside, 0).to(tl.float32)
            time += gap * passed_per_cell(x, parameters, b, r, t, block, plan)
            gaps = gaps + (gap,)
        if x.gap_time is not None:
            time += load_row(x.gap_time, r, b, t, d, mask)
        times = times + (time,)
    return cells, us, raws, sizes, times, gaps, Bs, Cs


@triton.jit
def step_size(x, parameters, r: tl.constexpr, b, place, d, mask, plan):
    """Delta before and after softplus."""
    _, bias, _, _ = parameters
    raw = load_row(x.delta, r, b, place, d, mask)
    if x.delta_bias is not None:
        raw += bias[r]
    return raw, tl.where(mask, softplus(raw) if plan.SOFTPLUS else raw, 0.0)


@triton.jit
def passed_per_cell(x, parameters, b, r: tl.constexpr, t, block, plan):
    """The time that passes at a pruned cell before step ``t``: a given one, or the delta of the step before."""
    d, _, _, _ = block
    _, _, gap_size, _ = parameters
    after_first = (t > 0) & (t <= x.walk.tokens)
    place = cell_at(x.walk, b, r, t - 1, after_first, plan) if plan.PERMUTE else t - 1
    _, passed = step_size(x, parameters, r, b, place, d, within(d, x.channels, after_first), plan)
    if x.delta_gap is not None:
        passed = tl.where(gap_size[r] < 0, passed, gap_size[r])
    return passed


@triton.jit
def advance(states, step, parameters, plan):
    """The state of every direction after one more step."""
    _, us, _, sizes, times, _, Bs, _ = step
    decays, _, _, _ = parameters
    after = ()
    for r in tl.static_range(plan.R):
        decay = tl.exp2(times[r][:, None] * decays[r])
        after = after + (decay * states[r] + (sizes[r] * us[r])[:, None] * Bs[r][None, :],)
    return after
