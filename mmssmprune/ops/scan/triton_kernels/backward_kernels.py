"""The backward kernels: each chunk is walked again from its saved state, then back from its end."""

# ruff: noqa: RUF005  (inside a kernel tuples grow by addition only)

from __future__ import annotations

import triton
import triton.language as tl

from .forward_kernels import add_time
from .steps import (
    LOG2E,
    advance,
    block_of,
    image_and_chunk,
    load_parameters,
    load_row,
    load_states,
    move_at,
    read_step,
    row_at,
    sigmoid,
    steps_in,
    store_states,
    store_times,
    within,
    zeros,
)


@triton.jit
def carry_kernel(x, dy, after, elapsed, plan):
    """What one chunk adds to the gradient of the state before it, and the time that it takes."""
    b, c = image_and_chunk(x, plan)
    block = block_of(x, plan)
    parameters = load_parameters(x, block, plan)
    carry = zeros(plan.R, plan.BLOCK_D, plan.BLOCK_N)
    time = zeros(plan.R, plan.BLOCK_D, 1)
    steps = steps_in(x, c, plan)
    for j in range(steps):
        last = c * plan.CHUNK + (steps - j) * plan.STEPS - 1
        read = ()
        for k in tl.static_range(plan.STEPS):
            read = read + (read_step(x, parameters, b, last - k, block, plan),)
        for k in tl.static_range(plan.STEPS):
            carry = carry_back(x, dy, carry, last - k, read[k], parameters, b, block, plan)
            time = add_time(time, read[k], plan)
    store_states(after, carry, x, b, c, block, plan)
    store_times(elapsed, time, x, b, c, block, plan)


@triton.jit
def carry_back(x, dy, carry, t, step, parameters, b, block, plan):
    """The gradient of the state before step ``t`` from that of the state after it."""
    cells, _, _, _, times, _, _, Cs = step
    decays, _, _, _ = parameters
    d, _, _, _ = block
    mask = within(d, x.channels, t < x.walk.tokens)
    earlier = ()
    for r in tl.static_range(plan.R):
        decay = tl.exp2(times[r][:, None] * decays[r])
        grad_y = load_row(dy, 0, b, cells[r], d, mask)
        earlier = earlier + (decay * (carry[r] + grad_y[:, None] * Cs[r][None, :]),)
    return earlier


@triton.jit
def grads_kernel(x, dy, before, after, scratch, grads, plan):
    """One program takes a block of channels of one image along all directions, or if ``plan.APART`` one chunk of it.

    ``scratch`` (programs, blocks, CHUNK / STEPS, R, BLOCK_D, BLOCK_N) keeps the states of the chunk at hand.
    """
    b, chunk = image_and_chunk(x, plan)
    block = block_of(x, plan)
    parameters = load_parameters(x, block, plan)
    carry = zeros(plan.R, plan.BLOCK_D, plan.BLOCK_N)
    # Sums over tokens: a tile per set for A; columns for D, delta_bias and delta_gap; a row per move for direction_B.
    columns = zeros(plan.SETS, plan.BLOCK_D, 1)
    sums = (zeros(plan.SETS, plan.BLOCK_D, plan.BLOCK_N), columns, columns, columns)
    rows = tl.zeros((plan.MOVES, plan.BLOCK_N), tl.float32)
    kept = scratch_at(scratch, plan)
    SIZE: tl.constexpr = plan.R * plan.BLOCK_D * plan.BLOCK_N
    for i in range(1 if plan.APART else x.chunks):
        c = chunk if plan.APART else x.chunks - 1 - i
        if plan.APART:
            carry = load_states(after, x, b, c, block, plan)
        # Once forward through the chunk, with a state kept at the start of every group of STEPS steps.
        h = load_states(before, x, b, c, block, plan)
        tl.debug_barrier()  # the scratch of the chunk before has been read
        for j in range(steps_in(x, c, plan)):
            keep(kept + j * SIZE, h, plan)
            for k in tl.static_range(plan.STEPS):
                step = read_step(x, parameters, b, c * plan.CHUNK + j * plan.STEPS + k, block, plan)
                h = advance(h, step, parameters, plan)
        tl.debug_barrier()  # the scratch has been written
        # Then back, group by group: the states within one are made again from its first and stay in registers.
        owed = time_owed(x, carry, h, parameters, b, (c + 1) * plan.CHUNK, plan)
        for j in range(steps_in(x, c, plan)):
            back = steps_in(x, c, plan) - 1 - j
            start = c * plan.CHUNK + back * plan.STEPS
            h = kept_states(kept + back * SIZE, plan)
            read, walked = (), ()
            for k in tl.static_range(plan.STEPS):
                step = read_step(x, parameters, b, start + k, block, plan)
                read, walked = read + (step,), walked + (h,)
                h = advance(h, step, parameters, plan)
            for k in tl.static_range(plan.STEPS):
                at = start + plan.STEPS - 1 - k
                here = (at, read[plan.STEPS - 1 - k], walked[plan.STEPS - 1 - k])
                carry, owed, sums, rows = step_back(
                    x, dy, grads, here, carry, owed, sums, rows, parameters, b, block, plan
                )
    write_sums(grads, sums, rows, x, block, plan)


@triton.jit
def scratch_at(scratch, plan):
    """Pointers to the first tile of this program's scratch."""
    program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    size = (plan.CHUNK // plan.STEPS) * plan.R * plan.BLOCK_D * plan.BLOCK_N
    tile = tl.arange(0, plan.BLOCK_D)[:, None] * plan.BLOCK_N + tl.arange(0, plan.BLOCK_N)[None, :]
    return scratch + program * size + tile


@triton.jit
def keep(at, tiles, plan):
    for r in tl.static_range(plan.R):
        tl.store(at + r * plan.BLOCK_D * plan.BLOCK_N, tiles[r])


@triton.jit
def kept_states(at, plan):
    tiles = ()
    for r in tl.static_range(plan.R):
        tiles = tiles + (tl.load(at + r * plan.BLOCK_D * plan.BLOCK_N),)
    return tiles


@triton.jit
def time_owed(x, carry, h, parameters, b, t, plan):
    """What the gap before step ``t`` adds to the gradient of the delta before it, from the state ``h`` in between.

    `step_back` hands this on from step to step; for the last step of a chunk it comes from the first of the next one,
    whose ``carry`` is at hand: the gradient of ``h``, thus already that of the state after the gap times its decay.
    """
    decays, _, gap_size, _ = parameters
    owed = ()
    if x.walk.gap is not None:
        for r in tl.static_range(plan.R):
            at = x.walk.gap + (b * plan.R + r) * x.walk.tokens + t
            gap = tl.load(at, t < x.walk.tokens, 0).to(tl.float32)
            grad = gap * tl.sum(carry[r] * h[r] * decays[r], 1) / LOG2E
            if x.delta_gap is not None:
                grad = tl.where(gap_size[r] < 0, grad, 0.0)
            owed = owed + (grad,)
    return owed


@triton.jit
def step_back(x, dy, grads, here, carry, owed, sums, rows, parameters, b, block, plan):
    """Write the gradients of step ``t``; return ``carry``, ``owed`` for the step before, and the sums with this step.

    ``carry`` is the gradient of the state after the step as far as later steps use it, ``owed`` that of its delta as
    far as time passes with it at pruned cells after it; ``here``: t, what was read, the states before it.
    """
    TOGETHER: tl.constexpr = plan.SETS == 1 and not plan.PERMUTE  # the directions read the same delta, B and C
    ADD_U: tl.constexpr = plan.INPUTS == 1 and not plan.APART and plan.R > 1
    t, step, states = here
    cells, us, raws, sizes, times, gaps, Bs, Cs = step
    decays, _, gap_size, skip = parameters
    d, _, n, _ = block
    A_sums, D_sums, bias_sums, gap_sums = sums
    inside = t < x.walk.tokens
    mask, in_states = within(d, x.channels, inside), within(n, x.states, inside)
    new_carry, new_owed = (), ()
    for r in tl.static_range(plan.R):
        # The step was h' = exp(time A) h + (size u) B and y = C h' + D u, where decays = A log2(e): h is states[r],
        # h' = decayed + came_in B, and grad the gradient of h', which the steps after it and y have a part in.
        grad_y = load_row(dy, 0, b, cells[r], d, mask)
        decay = tl.exp2(times[r][:, None] * decays[r])
        decayed = decay * states[r]
        came_in = sizes[r] * us[r]
        grad = carry[r] + grad_y[:, None] * Cs[r][None, :]
        new_carry = new_carry + (grad * decay,)
        by_time = grad * decayed  # the gradient of the exponent time A
        A_sums = add_to(A_sums, r if plan.SETS > 1 else 0, by_time * times[r][:, None], plan)
        grad_time = tl.sum(by_time * decays[r], 1) / LOG2E
        grad_in = tl.sum(grad * Bs[r][None, :], 1)
        grad_u = grad_in * sizes[r]
        if x.D is not None:
            grad_u += skip[r] * grad_y
            D_sums = add_to(D_sums, r if plan.SETS > 1 else 0, (grad_y * us[r])[:, None], plan)
        write_row(grads.u, 0 if ADD_U else r, b, cells[r], d, grad_u, mask, ADD_U)
        grad_size = grad_in * us[r] + grad_time  # delta is the size of what comes in, and time that passes
        grad_B = tl.sum(grad * came_in[:, None], 0)
        grad_C = grad_y[:, None] * (decayed + came_in[:, None] * Bs[r][None, :])
        if grads.gap_time is not None:
            write_row(grads.gap_time, r, b, t, d, grad_time, mask, False)
        if x.walk.gap is not None:
            # Pruned cells after this step may take its delta; those before it, what is given or the delta before.
            grad_size += owed[r]
            passed = gaps[r] * grad_time
            if x.delta_gap is not None:
                given = tl.where(gap_size[r] < 0, 0.0, passed)
                gap_sums = add_to(gap_sums, r if plan.SETS > 1 else 0, given[:, None], plan)
                passed -= given
            new_owed = new_owed + (passed,)
        if grads.direction_B is not None:
            moved = tl.arange(0, plan.MOVES)[:, None] == move_at(x.walk, b, r, t, inside, plan)
            rows += tl.where(moved, grad_B[None, :], 0.0)
        # What directions read together has one gradient, the sum, written with the last of them.
        if not TOGETHER or r == 0:
            size_sum, B_sum, C_sum = grad_size, grad_B, grad_C
        else:
            size_sum, B_sum, C_sum = size_sum + grad_size, B_sum + grad_B, C_sum + grad_C
        if not TOGETHER or r == plan.R - 1:
            partial = tl.program_id(1) * (1 if TOGETHER else plan.R) + (0 if TOGETHER else r)
            place = cells[r] if plan.PERMUTE else t
            grad_raw = tl.where(mask, size_sum * sigmoid(raws[r]) if plan.SOFTPLUS else size_sum, 0.0)
            bias_sums = add_to(bias_sums, r if plan.SETS > 1 else 0, grad_raw[:, None], plan)
            write_row(grads.delta, 0 if TOGETHER else r, b, place, d, grad_raw, mask, False)
            write_row(grads.B, partial, b, place, n, B_sum, in_states, False)
            write_row(grads.C, partial, b, place, n, tl.sum(C_sum, 0), in_states, False)
    return new_carry, new_owed, (A_sums, D_sums, bias_sums, gap_sums), rows


@triton.jit
def add_to(tiles, index: tl.constexpr, more, plan):
    """The tuple with ``more`` added to one of its tiles."""
    result = ()
    for i in tl.static_range(plan.SETS):
        result = result + (tiles[i] + more if i == index else tiles[i],)
    return result


@triton.jit
def write_row(rows, plane, b, token, columns, value, mask, ADD: tl.constexpr):
    at = row_at(rows, plane, b, token, columns)
    if ADD:
        tl.debug_barrier()  # the direction before may have written the same token
        value += tl.load(at, mask, 0.0)
    tl.store(at, value, mask)


@triton.jit
def write_sums(grads, sums, rows, x, block, plan):
    """Store what this program has summed over its tokens."""
    d, in_d, n, in_n = block
    A_sums, D_sums, bias_sums, gap_sums = sums
    program = tl.program_id(0).to(tl.int64)
    for s in tl.static_range(plan.SETS):
        at = ((program * plan.SETS + s) * x.channels + d)[:, None]
        tl.store(grads.A + at * x.states + n[None, :], A_sums[s], in_d[:, None] & in_n[None, :])
        if grads.D is not None:
            tl.store(grads.D + at, D_sums[s], in_d[:, None])
        if grads.delta_bias is not None:
            tl.store(grads.delta_bias + at, bias_sums[s], in_d[:, None])
        if grads.delta_gap is not None:
            tl.store(grads.delta_gap + at, gap_sums[s], in_d[:, None])
    if grads.direction_B is not None:
        move = (program * tl.num_programs(1) + tl.program_id(1)) * plan.MOVES + tl.arange(0, plan.MOVES)
        at = move[:, None] * x.states + n[None, :]
        tl.store(grads.direction_B + at, rows, (move >= 0)[:, None] & in_n[None, :])
