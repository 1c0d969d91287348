"""Deterministic weights and inputs for the golden fixtures (NumPy only).

The rule is a function of (state_dict key, shape, seed) alone, so it does not depend on how or in
which order a model builds its modules.  See README.md, section "Recipe".

    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    sd = {k: torch.from_numpy(a) for k, a in make_weights(shapes, seed).items()}
    model.load_state_dict(sd, strict=True)
"""

import zlib

import numpy as np

RECIPE_VERSION = 1


def normal(key, shape, seed):
    """float64 standard normals for one key: PCG64 seeded with crc32(key) XOR seed."""
    s = (zlib.crc32(key.encode('utf-8')) ^ int(seed)) & 0xFFFFFFFF
    return np.random.Generator(np.random.PCG64(s)).standard_normal(tuple(shape))


def make_weight(key, shape, seed):
    shape = tuple(int(v) for v in shape)
    leaf = key.rsplit('.', 1)[-1]  # last component, e.g. "weight"
    two = '.'.join(key.rsplit('.', 2)[-2:])  # last two components, e.g. "dt_proj.bias"
    if leaf == 'num_batches_tracked':
        return np.zeros(shape, np.int64)
    n = normal(key, shape, seed)
    if leaf == 'running_mean':
        v = 0.1 * n
    elif leaf == 'running_var':
        v = 1.0 + 0.2 * np.abs(n)
    elif leaf in ('A_log', 'A_b_log'):  # (d_inner, N): log(1..N) + noise
        v = np.log(np.arange(1, shape[1] + 1, dtype=np.float64))[None, :] + 0.05 * n
    elif leaf == 'A_logs':  # (4 * d_inner, N), of VMamba, as those below
        v = np.log(np.arange(1, shape[1] + 1, dtype=np.float64))[None, :] + 0.3 * n
    elif leaf == 'Ds':
        v = 0.5 + 0.3 * n
    elif leaf == 'dt_projs_bias':
        v = -1.0 + 0.5 * n
    elif leaf in ('dt_projs_weight', 'x_proj_weight'):  # (4, d_inner, R), (4, R + 2N, d_inner)
        v = n / np.sqrt(shape[-1])
    elif leaf in ('D', 'D_b'):
        v = 1.0 + 0.1 * n
    elif leaf == 'direction_Bs':
        v = 0.5 * n
    elif two in ('dt_proj.bias', 'dt_proj_b.bias'):
        v = -1.0 + 0.5 * n
    elif two == 'sampling_offsets.bias':
        v = 1.0 * n
    elif leaf == 'gamma':
        v = 0.5 + 0.1 * n
    elif leaf in ('pos_embed', 'cls_token', 'cls_token_head', 'cls_token_tail', 'level_embed'):
        v = 0.3 * n
    elif leaf == 'bias':
        v = 0.1 * n
    elif leaf == 'weight' and len(shape) == 1:  # LayerNorm / RMSNorm / BatchNorm scale
        v = 1.0 + 0.1 * n
    elif leaf == 'weight':  # linear and convolution
        fan_in = int(np.prod(shape[1:]))
        gain = 2.0 if two in ('x_proj.weight', 'x_proj_b.weight') else 1.0
        v = gain * n / np.sqrt(fan_in)
    else:
        raise KeyError(f'no recipe rule for {key!r} {shape!r}')
    return v.astype(np.float32)


def make_weights(shapes, seed):
    """{key: shape} -> {key: array}; float32, except int64 zeros for num_batches_tracked."""
    return {k: make_weight(k, shapes[k], seed) for k in sorted(shapes)}


def make_input(name, shape, seed, scale=1.0):
    """float32 input called `name` (the key drawn is 'input:' + name)."""
    return (scale * normal('input:' + name, shape, seed)).astype(np.float32)


def loss_weight(name, shape, seed):
    """float64 cotangent: the scalar loss of a gradient case is sum(output * loss_weight)."""
    return normal('loss:' + name, shape, seed)


def grad_probe(key, shape, seed):
    """float64 direction used to summarise the gradient of parameter `key`."""
    return normal('grad:' + key, shape, seed)


def sample_index(name, numel, size):
    """Sorted flat (C order) positions sampled from an array with `numel` elements."""
    if numel <= size:
        return np.arange(numel, dtype=np.int64)
    g = np.random.Generator(np.random.PCG64(zlib.crc32(('sample:' + name).encode('utf-8'))))
    # stratified: one position per equal bin, robust and cheap
    edges = np.linspace(0, numel, size + 1)
    lo, hi = np.floor(edges[:-1]), np.floor(edges[1:])
    return (lo + np.floor(g.random(size) * (hi - lo))).astype(np.int64)


def selftest():
    """Raise if this NumPy draws other numbers than the NumPy that made the fixtures."""
    v = normal('layers.0.mamba.A_log', (3,), 7)
    w = make_weight('layers.0.mamba.x_proj.weight', (2, 4), 11).ravel()[:3]
    assert np.allclose(v, [0.4712466226203208, -1.421383251845466, -0.06153839424301205], atol=1e-12, rtol=0), v
    assert np.allclose(w, [-1.2267917394638062, -1.006799578666687, 0.2421836107969284], atol=1e-7, rtol=0), w


if __name__ == '__main__':
    selftest()
    print('ok')
