"""Backbones on a GPU: no host synchronisation, CUDA graphs, and the same results whatever scans and convolves.

The kernels alone are tested in tests/test_ops. MMSSMPRUNE_TEST_DEVICE=cpu runs what needs no GPU, to try the tests.
"""

from __future__ import annotations

import os

import pytest
import torch

from mmssmprune.ops import available_backends
from mmssmprune.ops.scan import SCAN_BACKENDS

pytest.importorskip('mmengine')
from mmssmprune.models import PlainMamba, Vim, keep_ratio_set_to

DEVICE = os.environ.get('MMSSMPRUNE_TEST_DEVICE') or 'cuda'
pytestmark = pytest.mark.skipif(DEVICE == 'cuda' and not torch.cuda.is_available(), reason='there is no GPU')
ON_GPU = pytest.mark.skipif(DEVICE != 'cuda', reason='there is no GPU')
SIDE, LAYERS = (512, 6) if DEVICE == 'cuda' else (64, 4)
MAKERS = {
    'plain_mamba': lambda **k: PlainMamba('L1', img_size=SIDE, num_layers=LAYERS, out_indices=(1, 3), **k),
    'vim': lambda **k: Vim('tiny', img_size=SIDE, num_layers=LAYERS, out_indices=(1, 3), **k),
    'vim_cls': lambda **k: Vim('tiny', img_size=SIDE, num_layers=LAYERS, out_type='cls_token', **k),
}
PRUNINGS = {
    'dense': None,
    'carry': dict(layers=[1, 2], keep_ratio=0.6),
    'none': dict(layers=[1], keep_ratio=0.5, alignment='none'),
    'per stage, bias, filled': dict(
        layers=[0, 2], keep_ratio=0.7, alignment='bias', regime='per_stage', conv_fill='leader', restoration='zero'
    ),
}
EVERY = [(kind, name) for kind in MAKERS for name in PRUNINGS if (kind, name) != ('vim_cls', 'per stage, bias, filled')]
each = pytest.mark.parametrize(('kind', 'pruning'), EVERY)


def make(kind: str, pruning: str, **other: str) -> torch.nn.Module:
    """A backbone whose scans matter, in eval mode; the weights do not depend on the pruning."""
    torch.manual_seed(0)
    settings = PRUNINGS[pruning]
    model = MAKERS[kind](pruning=settings and {**settings, **other})
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and 'A_' not in name and not name.startswith('pruner.'):
            torch.nn.init.normal_(parameter, std=0.05)
    return model.to(DEVICE).eval()


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, SIDE, SIDE).to(DEVICE)


@pytest.fixture(autouse=True)
def _no_tf32():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def no_synchronisation():
    """Everything that waits for the GPU is an error, from the moment that the yielded function is called."""
    yield lambda: torch.cuda.set_sync_debug_mode('error')
    torch.cuda.set_sync_debug_mode('default')


@ON_GPU
def test_triton_is_the_default():
    assert SCAN_BACKENDS.choose(None, torch.device('cuda'), torch.float32) == 'triton'


@ON_GPU
@each
def test_forward_never_waits_for_the_gpu(kind, pruning, no_synchronisation):
    model, x = make(kind, pruning), images()
    with torch.no_grad():
        model(x)  # makes the walks, once per size
        no_synchronisation()
        model(x)


@ON_GPU
@each
def test_training_never_waits_for_the_gpu(kind, pruning, no_synchronisation):
    model, x = make(kind, pruning).train(), images()
    sum(out.sum() for out in model(x)).backward()
    no_synchronisation()
    sum(out.sum() for out in model(x)).backward()


@ON_GPU
@each
def test_forward_is_a_cuda_graph(kind, pruning):
    """Capturing fails where the host waits, and a replay on other images shows that nothing was fixed by capture."""
    model, x, others = make(kind, pruning), images(), images()
    with torch.no_grad():
        expected = [out.clone() for out in model(others)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                model(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs = model(x)
        x.copy_(others)
        graph.replay()
    for out, wanted in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('pruning', [name for name, settings in PRUNINGS.items() if settings])
@pytest.mark.parametrize('kind', ['plain_mamba', 'vim'])
def test_keeping_all_is_the_dense_model_bit_for_bit(kind, pruning):
    dense, pruned, x = make(kind, 'dense'), make(kind, pruning), images()
    pruned.load_state_dict(dense.state_dict(), strict=False)
    with torch.no_grad(), keep_ratio_set_to(pruned, 1.0):
        assert all(torch.equal(*pair) for pair in zip(pruned(x), dense(x), strict=True))
        different = pruned(x)
    with torch.no_grad():
        assert not torch.equal(pruned(x)[-1], different[-1])


@each
def test_every_backend_gives_the_same(kind, pruning, monkeypatch):
    """The default backend against the portable one: outputs, and every gradient relative to its largest value."""
    # With an even pattern no rounding decides which tokens are kept.
    model, x = make(kind, pruning, importance='grid'), images()
    weights = [torch.randn_like(out) for out in model(x)]
    results = []
    for name in (None, 'torch'):
        if name:
            monkeypatch.setenv(SCAN_BACKENDS.variable, name)
            monkeypatch.setenv('MMSSMPRUNE_CONV_BACKEND', name)
        model.zero_grad(set_to_none=True)
        outs = model(x)
        sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True)).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append({**{f'out {i}': out.detach() for i, out in enumerate(outs)}, **gradients})
    assert available_backends(DEVICE)[-1] != 'torch'
    for name, expected in results[1].items():
        error = (results[0][name] - expected).abs().max() / expected.abs().max().clamp_min(1e-20)
        assert error < 1e-3, f'{name}: relative error {error:.3g}'


@pytest.mark.parametrize('pruning', ['dense', 'carry'])
@pytest.mark.parametrize('kind', ['plain_mamba', 'vim'])
def test_autocast_is_close_to_float32(kind, pruning):
    model, x = make(kind, pruning), images()
    with torch.no_grad():
        expected = model(x)
        with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
            outs = model(x)
    for out, wanted in zip(outs, expected, strict=True):
        assert out.isfinite().all()
        # Rounding may keep other tokens where scores are close, so only the bulk of the numbers is compared.
        assert (out.float() - wanted).abs().median() < 0.1 * wanted.abs().mean()
