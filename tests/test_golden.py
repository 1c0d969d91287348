"""Every golden case: numbers of the official models, reproduced in float64 (gradients too) and in float32.

Each case runs with every backend, of the scan and of the convolution alike, the largest with the slower backends in the
slow tests; `MMSSMPRUNE_SCAN_BACKEND=NAME` names another one to run it with.
The cases are in tests/data/golden; another folder is taken from the environment variable MMSSMPRUNE_GOLDEN.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import golden_weights as gw
import numpy as np
import pytest
import torch
from golden_families import BUILDERS, Subject, build_selective_scan
from scan_operands import NO_CPP

from mmssmprune.ops.kept_conv import CONV_BACKENDS
from mmssmprune.ops.scan import SCAN_BACKENDS, cpp

FOLDER = Path(os.environ.get('MMSSMPRUNE_GOLDEN', Path(__file__).parent / 'data' / 'golden'))
CASES = sorted(p.stem for p in FOLDER.glob('*.npz'))
# Images of 224x224. The small cases show with every backend that the models use it rightly.
LARGE = ('pm_l1_full_224', 'vim_t_full_224', 'vim_t_d4_224')
RELATIVE = {'float32': 1e-6, 'float64': 1e-10}


def test_there_are_cases():
    assert CASES, f'no golden cases (*.npz) in {FOLDER}'


def read(case: str) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(FOLDER / f'{case}.npz') as z:
        arrays = {k: z[k] for k in z.files}
    return json.loads(arrays.pop('meta').tobytes()), arrays


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the backend that runs every scan and every convolution over tokens."""
    monkeypatch.setenv(SCAN_BACKENDS.variable, request.param)
    monkeypatch.setenv(CONV_BACKENDS.variable, request.param)
    return request.param


def with_backends(cases: list[str]) -> pytest.MarkDecorator:
    """Each case with each backend. The quick tests have a large case with the fastest backend alone."""
    chosen = os.environ.get(SCAN_BACKENDS.variable)
    fastest = chosen or ('cpp' if cpp.problem() is None else 'torch')
    pairs = []
    for case in cases:
        for name in [chosen] if chosen else ['naive', 'torch', 'cpp']:
            marks = [NO_CPP] if name == 'cpp' else []
            marks += [pytest.mark.slow] if case in LARGE and name != fastest else []
            pairs.append(pytest.param(case, name, marks=marks, id=f'{name}-{case}'))
    return pytest.mark.parametrize(('case', 'backend'), pairs, indirect=['backend'])


def build_subject(meta: dict, arrays: dict, dtype: torch.dtype, backend: str) -> Subject:
    """What the case is about. An unknown family is an error."""
    if meta['family'] == 'selective_scan':
        return build_selective_scan(meta['config'], meta, arrays, dtype, backend)
    if meta['family'] not in BUILDERS:
        raise KeyError(f'golden case of the unknown family {meta["family"]!r}; known are {sorted(BUILDERS)}')
    return BUILDERS[meta['family']](meta['config'], meta, arrays, dtype)


def sampled(value: torch.Tensor, stored: str, arrays: dict) -> np.ndarray:
    """The stored part of a full array: all of it, or the flat positions named in ``stored``."""
    flat = value.detach().numpy()
    index = re.search(r'flat\[(idx_\d+_\d+)\]', stored)
    return flat.reshape(-1)[arrays[index[1]]] if index else flat


def actual_array(name: str, value, spec: dict, arrays: dict) -> np.ndarray:
    if isinstance(value, list):
        return np.stack([sampled(v, spec['stored'], arrays) for v in value])
    return sampled(value, spec['stored'], arrays)


def stats(value: list[torch.Tensor]) -> np.ndarray:
    rows = [(v.mean().item(), v.std(correction=0).item(), v.abs().max().item()) for v in value]
    return np.array(rows)


def assert_close(name: str, actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape, f'{name}: shape {actual.shape}, expected {expected.shape}'
    if expected.dtype.kind in 'iu':
        assert (actual == expected).all(), name
        return
    scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
    error = float(np.abs(actual.astype(np.float64) - expected).max(initial=0)) / scale
    assert error <= RELATIVE[expected.dtype.name], f'{name}: relative error {error:.3g}'


@with_backends(CASES)
def test_float64(case: str, backend: str):
    meta, arrays = read(case)
    subject = build_subject(meta, arrays, torch.float64, backend)
    outputs = subject.run(subject.inputs)
    unchecked = {k for k in arrays if not re.match(r'idx_|in_', k)}
    for name, value in outputs.items():
        if name in arrays:
            spec = meta.get('arrays', {}).get(name, {'stored': 'full'})
            assert_close(name, actual_array(name, value, spec, arrays), arrays[name])
            unchecked.discard(name)
        if f'{name}_stats' in arrays:
            assert_close(f'{name}_stats', stats(value), arrays[f'{name}_stats'])
            unchecked.discard(f'{name}_stats')
    unchecked -= check_gradients(meta, arrays, subject, outputs)
    unchecked -= check_running_statistics(arrays, subject)
    assert not unchecked, f'arrays of the case that nothing was compared with: {sorted(unchecked)}'


def loss_of(meta: dict, outputs: dict) -> torch.Tensor:
    total = 0
    for head in meta.get('heads', ['out']):
        weight = gw.loss_weight(f'{meta["case"]}/{head}', tuple(outputs[head].shape), meta['seed'])
        total = total + (outputs[head] * torch.from_numpy(weight)).sum()
    return total


def check_gradients(meta: dict, arrays: dict, subject: Subject, outputs: dict) -> set[str]:
    """Compare every stored gradient; return their names."""
    names = {k for k in arrays if k.startswith(('grad_', 'pgrad/')) or k == 'param_grads'}
    if not names:
        return names
    loss = loss_of(meta, outputs)
    assert loss.item() == pytest.approx(meta['loss'], rel=1e-10)
    loss.backward()
    for name, tensor in subject.inputs.items():
        key = 'grad_input' if name == 'input' else f'grad_{name}'
        spec = meta['arrays'].get(key, {'stored': 'full'})
        assert_close(key, sampled(tensor.grad, spec['stored'], arrays), arrays[key])
    grads = {} if subject.module is None else {k: p.grad for k, p in subject.module.named_parameters()}
    for i, key in enumerate(meta.get('grad_keys', [])):
        probe = gw.grad_probe(key, tuple(grads[key].shape), meta['seed'])
        grad = grads[key].numpy()
        summary = np.array([grad.sum(), np.sqrt((grad**2).sum()), (grad * probe).sum()])
        expected = arrays['param_grads'][i]
        # A sum of many signed terms is exact only against the size of the terms.
        scale = max(np.abs(expected).max(), np.abs(grad).sum())
        assert np.abs(summary - expected).max() <= 1e-10 * scale, f'gradient of {key}'
    for name in arrays:
        if name.startswith('pgrad/'):
            assert_close(name, grads[name.removeprefix('pgrad/')].numpy(), arrays[name])
    for key in meta.get('no_grad_keys', []):
        assert grads.get(key) is None, f'{key} should get no gradient'
    return names


def check_running_statistics(arrays: dict, subject: Subject) -> set[str]:
    names = {k for k in arrays if k.startswith('after/')}
    for name in names:
        buffer = subject.module.state_dict()[name.removeprefix('after/')]
        assert_close(name, buffer.numpy(), arrays[name])
    return names


@with_backends([case for case in CASES if 'f32_maxdiff' in read(case)[0]])
def test_float32(case: str, backend: str):
    """Allow five times what the official float32 run itself is off, or 2e-5 of the largest value."""
    meta, arrays = read(case)
    subject = build_subject(meta, arrays, torch.float32, backend)
    with torch.no_grad():
        outputs = subject.run(subject.inputs)
    for name, allowed in meta['f32_maxdiff'].items():
        spec = meta.get('arrays', {}).get(name, {'stored': 'full'})
        error = np.abs(actual_array(name, outputs[name], spec, arrays) - arrays[name])
        if isinstance(allowed, list):
            worst = np.abs(arrays[name]).max(axis=1)
            limits = np.maximum(5 * np.array(allowed), 2e-5 * worst)
            assert (error.max(axis=1) <= limits).all(), name
        else:
            largest = meta['absmax'].get(name, np.abs(arrays[name]).max())
            assert error.max() <= max(5 * allowed, 2e-5 * largest), name
