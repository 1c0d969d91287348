"""The dense copy teaches the pruned backbone, and nothing else about the training changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS
from mmengine_state import forget_earlier_runs
from tiny_training import LAYERS, backbone_cfg, batch_of, build, detector_cfg, make_runner, segmentor_cfg

from mmssmprune.engine.distillation import DistillationHook, feature_distance, make_teacher
from mmssmprune.models import keep_ratio_set_to

PRUNING = dict(layers=LAYERS, keep_ratio=0.5)
PRUNED = backbone_cfg(pruning=PRUNING)
DISTIL = dict(type='DistillationHook', loss_weight=2.0)


class Losses(Hook):
    """Keeps what the model's loss returned at every iteration."""

    def __init__(self):
        self.seen: list[dict[str, float]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append({name: float(value) for name, value in outputs.items()})


class Watch(Hook):
    """Calls a function at the end of training, before the distillation ends."""

    priority = 'VERY_HIGH'

    def __init__(self, look):
        self.look = look

    def after_train(self, runner):
        self.look(runner)


def distilled(model: torch.nn.Module, **options) -> DistillationHook:
    """Put the loss into a model as the hook does in a training."""
    hook = DistillationHook(**options)
    hook.teacher = make_teacher(model, options.get('teacher'))
    model.loss = hook._with_distillation(model)
    return hook


def train(runner) -> list[dict[str, float]]:
    losses = Losses()
    runner.register_hook(losses)
    runner.train()
    return losses.seen


def test_distance_is_the_mean_over_maps_and_images():
    torch.manual_seed(0)
    maps = [torch.randn(3, 4, 5, 7), torch.randn(3, 8, 2, 3)]
    targets = [torch.randn(3, 4, 5, 7), 100 * torch.randn(3, 8, 2, 3)]
    plain, relative = [], []
    for x, target in zip(maps, targets, strict=True):
        plain.append(((x - target) ** 2).mean())
        relative.append(sum(((a - t) ** 2).sum() / (t**2).sum() for a, t in zip(x, target, strict=True)) / 3)
    assert torch.allclose(feature_distance(maps, targets, normalize=False), sum(plain) / 2)
    assert torch.allclose(feature_distance(maps, targets), sum(relative) / 2)
    small = ([1e-4 * x for x in maps], [1e-4 * x for x in targets])
    assert torch.allclose(feature_distance(*small), sum(relative) / 2, rtol=1e-4)
    large = ([300 * x.half() for x in maps[:1]], [300 * x.half() for x in targets[:1]])
    assert torch.isfinite(feature_distance(*large))  # squares beyond the range of float16
    with pytest.raises(ValueError, match='shorter'):
        feature_distance(maps, targets[:1])


@pytest.mark.parametrize('make_cfg', [segmentor_cfg, detector_cfg])
def test_loss_is_the_distance_between_pruned_and_dense_maps(make_cfg):
    model = build(make_cfg(backbone_cfg('Vim', pruning=PRUNING))).train()
    batch = batch_of(model)
    plain = model(**batch, mode='loss')
    with keep_ratio_set_to(model, 1.0):
        dense = model.backbone(batch['inputs'])
    expected = 2.0 * feature_distance(model.backbone(batch['inputs']), dense)
    distilled(model, loss_weight=2.0)
    losses = model(**batch, mode='loss')
    assert losses.keys() == plain.keys() | {'loss_distill'}
    assert expected > 0.01
    torch.testing.assert_close(losses['loss_distill'], expected)
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, model.parse_losses(plain)[0] + expected)


def test_loss_is_zero_where_nothing_is_pruned():
    model = build(segmentor_cfg(backbone_cfg('Vim', pruning=PRUNING))).train()
    distilled(model)
    with keep_ratio_set_to(model, 1.0):
        assert model(**batch_of(model), mode='loss')['loss_distill'] < 1e-9


def test_only_the_student_gets_gradients_through_gradient_checkpointing_too():
    gradients = []
    for with_cp in (False, True):
        model = build(segmentor_cfg(dict(PRUNED, with_cp=with_cp))).train()
        hook = distilled(model)
        model(**batch_of(model), mode='loss')['loss_distill'].backward()
        assert all(p.grad is None and not p.requires_grad for p in hook.teacher.parameters())
        gradients.append({name: p.grad for name, p in model.backbone.named_parameters()})
    assert gradients[0]['layers.3.mamba.in_proj.weight'].abs().sum() > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_under_autocast_the_loss_is_finite_and_float32():
    model = build(segmentor_cfg(PRUNED)).train()
    distilled(model)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(**batch_of(model), mode='loss')
    assert losses['loss_distill'].dtype == torch.float32
    assert 0 < losses['loss_distill'] < 10
    model.parse_losses(losses)[0].backward()


def test_outside_of_training_the_loss_is_the_models_own():
    model = build(segmentor_cfg(PRUNED)).eval()
    distilled(model)
    assert 'loss_distill' not in model(**batch_of(model), mode='loss')


@pytest.mark.parametrize('detector', [False, True])
def test_training_leaves_teacher_checkpoint_and_model_as_they_should_be(detector: bool, tmp_path: Path):
    runner = make_runner(tmp_path / 'run', [DISTIL], PRUNED, iters=3, detector=detector)
    at_start, at_end = {}, {}

    def look(runner):
        hook = next(hook for hook in runner.hooks if isinstance(hook, DistillationHook))
        at_end.update(hook.teacher.state_dict())
        assert not any(module.training for module in hook.teacher.modules())
        owned = {id(p) for p in hook.teacher.parameters()}
        assert not owned & {id(p) for group in runner.optim_wrapper.param_groups for p in group['params']}

    runner.register_hook(Watch(look))
    runner.register_hook(StartWeights(at_start))
    names = set(runner.model.state_dict())
    seen = train(runner)
    assert all(losses['loss_distill'] > 0 for losses in seen)
    parts = [sum(v for k, v in losses.items() if k != 'loss' and 'loss' in k) for losses in seen]
    assert parts == pytest.approx([losses['loss'] for losses in seen], rel=1e-5)
    assert at_end.keys() == at_start.keys()
    assert all(torch.equal(at_end[name], value) for name, value in at_start.items())
    saved = torch.load(tmp_path / 'run' / 'iter_3.pth', weights_only=False)['state_dict']
    assert set(saved) == names
    moved = saved['backbone.layers.3.mamba.in_proj.weight'] - at_start['layers.3.mamba.in_proj.weight']
    assert moved.abs().max() > 0
    assert 'loss' not in vars(runner.model)
    assert runner.model.backbone.pruner.plan.keep_ratios == (0.5, 0.5)


class StartWeights(Hook):
    """Keeps the backbone's weights at the start of training, BatchNorm's statistics included."""

    def __init__(self, into: dict):
        self.into = into

    def before_train(self, runner):
        self.into.update({k: v.clone() for k, v in runner.model.backbone.state_dict().items()})


def test_teacher_from_a_checkpoint_allows_resuming_and_none_does_not(tmp_path: Path):
    dense = make_runner(tmp_path / 'dense', [], backbone_cfg(), iters=3)
    dense.train()
    checkpoint = str(tmp_path / 'dense' / 'iter_3.pth')

    def teacher_is_the_dense_model(runner):
        hook = next(hook for hook in runner.hooks if isinstance(hook, DistillationHook))
        trained = dense.model.backbone.state_dict()
        assert all(torch.equal(hook.teacher.state_dict()[name], value) for name, value in trained.items())

    def run(folder: str, iters: int, **options):
        forget_earlier_runs()
        runner = make_runner(tmp_path / folder, [dict(DISTIL, **options.pop('hook'))], PRUNED, iters=iters, **options)
        runner.register_hook(Watch(teacher_is_the_dense_model))
        return train(runner)

    # From load_from, with a random start, and after resuming.
    assert len(run('loaded', 3, hook=dict(teacher=None), load_from=checkpoint)) == 3
    whole = run('whole', 6, hook=dict(teacher=checkpoint))
    resume = dict(resume=True, load_from=str(tmp_path / 'whole' / 'iter_3.pth'))
    resumed = run('resumed', 6, hook=dict(teacher=checkpoint), **resume)
    assert [x['loss_distill'] for x in resumed] == pytest.approx([x['loss_distill'] for x in whole[3:]], rel=1e-3)
    with pytest.raises(ValueError, match=r'no teacher checkpoint, and after resuming .* give teacher=PATH'):
        run('refused', 6, hook=dict(teacher=None), **resume)


def test_teachers_that_do_not_fit(tmp_path: Path):
    student = build(segmentor_cfg(PRUNED))
    deeper = dict(PRUNED, arch=dict(PRUNED['arch'], num_layers=5), out_indices=(1, 4))
    path = str(tmp_path / 'teacher.pth')
    torch.save(dict(state_dict=build(segmentor_cfg(deeper)).state_dict()), path)
    with pytest.raises(ValueError, match=r'teacher\.pth is of another architecture .* unknown to the model'):
        make_teacher(student, path)
    torch.save(dict(state_dict=student.backbone.state_dict()), path)
    with pytest.raises(ValueError, match=r"no key of the checkpoint starts with 'backbone\."):
        make_teacher(student, path)
    with pytest.raises(FileNotFoundError, match=r'gone\.pth does not exist'):
        make_teacher(student, str(tmp_path / 'gone.pth'))
    # What a pruned teacher keeps for its pruning is left out; the student's own stays.
    other = build(segmentor_cfg(backbone_cfg(pruning=dict(PRUNING, restoration='mask_token'))))
    torch.save(dict(state_dict=other.state_dict()), path)
    assert make_teacher(student, path).pruner.plan.keep_ratios == (1.0, 1.0)
    torch.save(dict(state_dict=student.state_dict()), path)
    assert not any(p.requires_grad for p in make_teacher(other, path).parameters())


def test_refused_before_the_first_iteration(tmp_path: Path):
    with pytest.raises(ValueError, match='needs a model whose backbone is pruned'):
        make_runner(tmp_path / 'dense', [DISTIL], backbone_cfg()).train()
    with pytest.raises(ValueError, match='leave one DistillationHook'):
        make_runner(tmp_path / 'twice', [DISTIL, DISTIL], PRUNED).train()
    for wrong in (dict(loss_weight=0), dict(loss_weight='1'), dict(teacher=1)):
        with pytest.raises(ValueError, match=f'DistillationHook.{next(iter(wrong))} must be'):
            HOOKS.build(dict(DISTIL, **wrong))


def test_works_inside_distributed_data_parallel_beside_a_changing_ratio(tmp_path: Path):
    elastic = dict(type='ElasticKeepRatioHook', keep_ratios=[0.9, 0.3])
    runner = make_runner(tmp_path / 'ddp', [DISTIL, elastic], PRUNED, iters=2)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        runner.model = MMDistributedDataParallel(runner.model)
        seen = train(runner)
    finally:
        torch.distributed.destroy_process_group()
    assert all(losses['loss_distill'] > 0 for losses in seen)
    inner = runner.model.module
    assert 'loss' not in vars(inner)
    assert inner.backbone.pruner.plan.keep_ratios == (0.5, 0.5)
