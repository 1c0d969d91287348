"""The forward kernels: walk the chunks, combine the states of chunks walked apart, and gate the sum."""

# ruff: noqa: RUF005  (inside a kernel tuples grow by addition only)

from __future__ import annotations

import triton
import triton.language as tl

from .steps import (
    LOG2E,
    advance,
    block_of,
    image_and_chunk,
    load_parameters,
    load_row,
    load_states,
    read_step,
    row_at,
    sigmoid,
    state_at,
    steps_in,
    store_states,
    store_times,
    within,
    zeros,
)


@triton.jit
def walk_kernel(x, before, y, z, total, out, plan, BLOCK_T: tl.constexpr):
    """One program takes a block of channels of one image along all directions.

    It walks all chunks, saves the state ``before`` each, adds what every direction gives to ``y``, zero at first, and
    gates that; or, if ``plan.APART``, one chunk from its state ``before``, each direction with a plane of ``y`` of its
    own, which `gate_kernel` sums up.
    """
    b, first = image_and_chunk(x, plan)
    block = block_of(x, plan)
    parameters = load_parameters(x, block, plan)
    h = zeros(plan.R, plan.BLOCK_D, plan.BLOCK_N)
    for i in range(1 if plan.APART else x.chunks):
        c = first + i
        if plan.APART:
            h = load_states(before, x, b, c, block, plan)
        else:
            store_states(before, h, x, b, c, block, plan)
        for j in range(steps_in(x, c, plan)):
            start = c * plan.CHUNK + j * plan.STEPS
            read = ()
            for k in tl.static_range(plan.STEPS):
                read = read + (read_step(x, parameters, b, start + k, block, plan),)
            for k in tl.static_range(plan.STEPS):
                h = advance(h, read[k], parameters, plan)
                write_y(x, y, h, read[k], parameters, b, start + k < x.walk.tokens, block, plan)
    if not plan.APART:
        tl.debug_barrier()  # y has been written
        for i in range(tl.cdiv(x.walk.tokens, BLOCK_T)):
            t = i * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
            mask = (t < x.walk.tokens) & (block[0] < x.channels)[None, :]
            gate(y, z, total, out, b, t, block[0][None, :], mask, tl.zeros((BLOCK_T, plan.BLOCK_D), tl.float32), 1)


@triton.jit
def write_y(x, y, h, step, parameters, b, inside, block, plan):
    cells, us, _, _, _, _, _, Cs = step
    _, _, _, skip = parameters
    d, _, _, _ = block
    mask = within(d, x.channels, inside)
    for r in tl.static_range(plan.R):
        out = tl.sum(h[r] * Cs[r][None, :], 1)
        if x.D is not None:
            out += skip[r] * us[r]
        at = row_at(y, r if plan.APART else 0, b, cells[r], d)
        if not plan.APART and plan.R > 1:
            tl.debug_barrier()  # the direction before may have written the same token
            out += tl.load(at, mask, 0.0)
        tl.store(at, out, mask)


@triton.jit
def ends_kernel(x, ends, elapsed, plan):
    """Walk one chunk from nothing: its last states, and the time that it takes."""
    b, c = image_and_chunk(x, plan)
    block = block_of(x, plan)
    parameters = load_parameters(x, block, plan)
    h = zeros(plan.R, plan.BLOCK_D, plan.BLOCK_N)
    time = zeros(plan.R, plan.BLOCK_D, 1)
    for j in range(steps_in(x, c, plan)):
        read = ()
        for k in tl.static_range(plan.STEPS):
            t = c * plan.CHUNK + j * plan.STEPS + k
            read = read + (read_step(x, parameters, b, t, block, plan),)
        for k in tl.static_range(plan.STEPS):
            h = advance(h, read[k], parameters, plan)
            time = add_time(time, read[k], plan)
    store_states(ends, h, x, b, c, block, plan)
    store_times(elapsed, time, x, b, c, block, plan)


@triton.jit
def add_time(time, step, plan):
    _, _, _, _, times, _, _, _ = step
    total = ()
    for r in tl.static_range(plan.R):
        total = total + (time[r] + times[r][:, None],)
    return total


@triton.jit
def combine_kernel(x, ends, elapsed, plan, REVERSE: tl.constexpr):
    """Turn what each chunk ends with, walked from nothing, into what each chunk starts from, in place."""
    b = tl.program_id(0).to(tl.int64) // plan.R
    r = tl.program_id(0) % plan.R
    block = block_of(x, plan)
    d, in_d, n, in_n = block
    in_dn = in_d[:, None] & in_n[None, :]
    A = x.A + (r if plan.SETS > 1 else 0) * x.channels * x.states + d[:, None] * x.states + n[None, :]
    decays = tl.load(A, in_dn, 0.0) * LOG2E
    state = tl.zeros((plan.BLOCK_D, plan.BLOCK_N), tl.float32)
    for i in range(x.chunks):
        c = x.chunks - 1 - i if REVERSE else i
        at = ends + state_at(x, b, r, c, block, plan)
        end = tl.load(at, in_dn, 0.0)
        tl.store(at, state, in_dn)
        time = tl.load(elapsed + ((b * plan.R + r) * x.chunks + c) * x.channels + d, in_d, 0.0)
        state = tl.exp2(time[:, None] * decays) * state + end


@triton.jit
def rows_of_gate(tokens, channels, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):
    """Image, tokens, channels and mask of a program that takes a tile of one image."""
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    return tl.program_id(0).to(tl.int64), t, d, (t < tokens) & (d < channels)


@triton.jit
def gate_kernel(y, z, total, out, tokens, channels, PLANES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sum the planes of ``y`` and gate the sum, a tile of one image per program."""
    b, t, d, mask = rows_of_gate(tokens, channels, BLOCK_T, BLOCK_D)
    gate(y, z, total, out, b, t, d, mask, tl.zeros((BLOCK_T, BLOCK_D), tl.float32), PLANES)


@triton.jit
def gate(y, z, total, out, b, t, d, mask, value, PLANES: tl.constexpr):
    """Add the planes of ``y`` to ``value``, which goes to ``total`` if there is a gate; ``out`` = value SiLU(z)."""
    for plane in tl.static_range(PLANES):
        value += load_row(y, plane, b, t, d, mask)
    if z.ptr is not None:
        tl.store(row_at(total, 0, b, t, d), value, mask)
        open_by = load_row(z, 0, b, t, d, mask)
        value *= open_by * sigmoid(open_by)
    tl.store(row_at(out, 0, b, t, d), value, mask)


@triton.jit
def ungate_kernel(grad_out, z, total, dy, dz, tokens, channels, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):
    """Gradients ``dy`` of the sum before the gate and ``dz`` of the gate."""
    b, t, d, mask = rows_of_gate(tokens, channels, BLOCK_T, BLOCK_D)
    grad = load_row(grad_out, 0, b, t, d, mask)
    gate = load_row(z, 0, b, t, d, mask)
    slope = sigmoid(gate)
    tl.store(row_at(dy, 0, b, t, d), grad * gate * slope, mask)
    sums = load_row(total, 0, b, t, d, mask)
    tl.store(row_at(dz, 0, b, t, d), grad * sums * slope * (1 + gate * (1 - slope)), mask)
