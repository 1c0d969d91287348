"""What torch's modes leave behind: nothing. Eager passes are the same after them, and inside those that ask no device.

Every pass is on a grid that no other test uses, so that what is kept for it is made here.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from tiny_backbones import MAKERS, PRUNING, make
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmssmprune.models.layers.deformable_attention import _as_tensor
from mmssmprune.ops.kept_conv.inputs import _every_cell
from mmssmprune.pruning import sequence_scan, snake_scan

KEPT = (snake_scan, sequence_scan, _as_tensor, _every_cell)


def forget() -> None:
    for function in KEPT:
        function.cache_clear()


def exported(model, images):  # costs about two seconds
    torch.export.export(model, (images,), strict=False)


def in_fake_mode(model, images):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        state = {k: mode.from_tensor(v) for k, v in (*model.named_parameters(), *model.named_buffers())}
        torch.func.functional_call(model, state, mode.from_tensor(images))


def in_inference_mode(model, images):
    with torch.inference_mode():
        model(images)


def in_grad(model, images):
    torch.func.grad(lambda x: sum(m.square().mean() for m in model(x)))(images)


def in_grad_of_grad(model, images):
    state = {k: v.detach() for k, v in model.named_parameters()}
    torch.func.vjp(lambda s: torch.func.functional_call(model, s, (images,))[0], state)[0].sum()


def under_meta(model, images):
    with torch.device('meta'):
        model(images)


def counted(model, images):
    with FlopCounterMode(display=False):
        model(images)


def on_meta_device(model, images):
    from mmssmprune.models.flops import count_on_meta, on_meta

    count_on_meta(on_meta(model), tuple(images.shape[-2:]))


PASSES = [exported, in_fake_mode, in_inference_mode, in_grad, in_grad_of_grad, under_meta, counted, on_meta_device]


def pass_and_gradient(model, images):
    model.zero_grad()
    maps = model(images)
    sum(m.square().mean() for m in maps).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(type(t) in (torch.Tensor, torch.nn.Parameter) and not t.is_inference() for t in (*maps, *gradients))
    return [m.detach() for m in maps], gradients


@pytest.mark.parametrize('special', PASSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize('kind', ['plain_mamba', 'vim_cls', 'adapter'])
def test_an_eager_pass_is_the_same_after_any_other(kind, special):
    model, images = make(kind, pruning=dict(PRUNING, restoration='interpolate')), torch.randn(2, 3, 64, 96)
    forget()
    expected = pass_and_gradient(model, images)
    forget()
    with suppress(RuntimeError):  # where the operators do not support a transform; what was made before that counts
        special(model, images)
    again = pass_and_gradient(model, images)
    for before, after in zip(expected, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize('kind', MAKERS)
def test_a_cpu_model_computes_the_same_under_another_default_device(kind):
    model, images = make(kind, pruning=PRUNING), torch.randn(1, 3, 64, 64)
    expected = model(images)
    forget()
    with torch.device('meta'):
        assert all(torch.equal(a, b) for a, b in zip(model(images), expected, strict=True))


def test_walks_made_in_inference_mode_can_be_trained_with():
    """A layer of one's own may hand `walk.order` to an operator whose backward keeps it."""
    forget()
    with torch.inference_mode():
        path = snake_scan(3, 5)
    x = torch.randn(15, requires_grad=True)
    x.index_select(0, path.order[0]).square().sum().backward()
    assert torch.allclose(x.grad, 2 * x)
    assert snake_scan(3, 5) is path


def test_transforms_keep_nothing():
    forget()
    torch.func.vmap(lambda x: x[snake_scan(2, 7).order[0]])(torch.randn(3, 14))
    torch.func.grad(lambda x: x[snake_scan(2, 7).order[0]].sum())(torch.randn(14))
    torch.func.jvp(lambda x: x[snake_scan(2, 7).order[0]], (torch.randn(14),), (torch.randn(14),))
    order = snake_scan(2, 7).order
    assert not torch._C._functorch.is_functorch_wrapped_tensor(order)
    assert order[0].tolist() == [*range(7), *range(13, 6, -1)]
