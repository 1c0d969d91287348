"""Trainings that diverge, that are killed at a bad moment, and that are resumed from the wrong thing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook, LoggerHook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine_state import forget_earlier_runs
from torch import nn

from mmssmprune.checkpoints.writing import sole_training
from mmssmprune.engine.runner import CheckedRunner


class TinyModel(BaseModel):
    """Its loss is that of `loss_at` where that names the iteration; its BatchNorm sees `inputs`."""

    def __init__(self, loss_at: dict[int, float] | None = None):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.loss_at, self.calls = loss_at or {}, 0

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor'):
        out = self.backbone(inputs)
        if mode == 'predict':
            return [out.mean()]
        self.calls += 1
        return {'loss': out.square().mean() * self.loss_at.get(self.calls, 1.0)}


class Score(BaseMetric):
    """10, 20, 30 ... by the iteration that is evaluated, so that the last is the best."""

    runner: CheckedRunner

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {'score': 10.0 * Score.runner.iter}


class Killed(Exception):
    pass


class Kill(Hook):
    """Ends the process, as far as the runner is concerned, when a method is called at an iteration."""

    priority = 'VERY_HIGH'

    def __init__(self, method: str, at: int):
        self.at = at
        setattr(self, method, self.kill)

    def kill(self, runner: CheckedRunner, *_: Any, **__: Any) -> None:
        if runner.iter == self.at:
            raise Killed


def make_runner(work_dir: Path, model: nn.Module | None = None, **options: Any) -> CheckedRunner:
    forget_earlier_runs()
    loader = dict(
        batch_size=2,
        dataset=[torch.randn(2) for _ in range(8)],
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=lambda batch: dict(inputs=torch.stack(batch)),
    )
    checkpoint = dict(type='CheckpointHook', interval=2, by_epoch=False, save_best='score', rule='greater')
    checkpoint.update(options.pop('checkpoint', {}))
    settings = dict(
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[Score()],
        val_cfg=dict(),
        train_cfg=dict(by_epoch=False, max_iters=6, val_interval=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=dict(type='PolyLR', begin=0, end=6, by_epoch=False),
        default_hooks=dict(checkpoint=checkpoint, logger=dict(type='LoggerHook', interval=1)),
        experiment_name=str(work_dir),
    )
    Score.runner = CheckedRunner(model=model or TinyModel(), work_dir=str(work_dir), **{**settings, **options})
    return Score.runner


def saved(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.glob('*pth*'))


def iteration(path: Path) -> int:
    return torch.load(path, weights_only=False)['meta']['iter']


@pytest.mark.parametrize('interval', [1, 100])
@pytest.mark.parametrize('cause', ['loss', 'learning rate', 'BatchNorm', 'EMA'])
def test_a_training_that_diverges_stops_before_it_saves(tmp_path: Path, cause: str, interval: int):
    work_dir = tmp_path / 'run'
    options: dict[str, Any] = {}
    if cause == 'learning rate':
        options['optim_wrapper'] = dict(optimizer=dict(type='SGD', lr=1e30))
        options['param_scheduler'] = dict(type='ConstantLR', factor=1e-30, begin=0, end=2, by_epoch=False)
    runner = make_runner(work_dir, TinyModel({3: float('nan')} if cause == 'loss' else None), **options)
    if cause in ('BatchNorm', 'EMA'):
        runner.register_hook(dict(type='EMAHook'))
        runner.register_hook(Spoil(cause))
    next(hook for hook in runner.hooks if isinstance(hook, LoggerHook)).interval = interval
    with pytest.raises(RuntimeError, match=r'training stopped at iteration [34]: .* is not finite, so nothing more is'):
        runner.train()
    assert 'iter_2.pth' in saved(work_dir)
    assert 'iter_4.pth' not in saved(work_dir)
    assert not list(work_dir.glob('*.part'))
    assert (work_dir / 'last_checkpoint').read_text().endswith('iter_2.pth')


class Spoil(Hook):
    """Put NaN into running statistics or averaged weights at the third iteration."""

    def __init__(self, what: str):
        self.what = what

    def after_train_iter(self, runner: CheckedRunner, *_: Any, **__: Any) -> None:
        if runner.iter != 2:
            return
        if self.what == 'BatchNorm':
            runner.model.backbone[1].running_var[0] = torch.nan
        else:
            ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
            ema.ema_model.module.backbone[0].weight.data[0, 0] = torch.inf


def test_the_last_good_checkpoint_is_not_rotated_away(tmp_path: Path):
    model = TinyModel({3: float('nan')})
    runner = make_runner(tmp_path / 'run', model, checkpoint=dict(max_keep_ckpts=1, save_best=None))
    with pytest.raises(RuntimeError, match='not finite'):
        runner.train()
    assert saved(tmp_path / 'run') == ['iter_2.pth']


def test_the_oldest_checkpoint_goes_only_once_the_next_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runner = make_runner(tmp_path / 'run', checkpoint=dict(max_keep_ckpts=1, save_best=None))
    seen = []
    replace = Path.replace

    def look(self: Path, target: Path) -> Path:
        seen.append(saved(tmp_path / 'run'))
        return replace(self, target)

    monkeypatch.setattr(Path, 'replace', look)
    runner.train()
    before_iter_4 = next(names for names in seen if any(name.startswith('iter_4') for name in names))
    assert 'iter_2.pth' in before_iter_4
    assert saved(tmp_path / 'run') == ['iter_6.pth']


class ScaledWrapper(OptimWrapper):
    """As AmpOptimWrapper on a GPU: a step whose loss is not finite is skipped."""

    loss_scaler = 'dynamic'

    def update_params(self, loss: torch.Tensor, **_: Any) -> None:
        if loss.isfinite():
            super().update_params(loss)


@pytest.mark.parametrize(('skipped', 'stops'), [(3, False), (55, True)])
def test_steps_that_a_loss_scaler_skips_are_no_reason(tmp_path: Path, skipped: int, stops: bool):
    model = TinyModel(dict.fromkeys(range(3, 3 + skipped), float('inf')))
    wrapper = ScaledWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    runner = make_runner(
        tmp_path / 'run',
        model,
        optim_wrapper=wrapper,
        param_scheduler=None,
        train_cfg=dict(by_epoch=False, max_iters=60, val_interval=100),
        checkpoint=dict(interval=100, save_best=None),
        train_dataloader=dict(
            batch_size=2,
            dataset=[torch.randn(2) for _ in range(8)],
            sampler=dict(type='InfiniteSampler'),
            collate_fn=lambda batch: dict(inputs=torch.stack(batch)),
        ),
    )
    if stops:
        with pytest.raises(RuntimeError, match='the loss is not finite'):
            runner.train()
    else:
        runner.train()
        assert saved(tmp_path / 'run') == ['iter_60.pth']


@pytest.mark.parametrize('at', [4, 6])
@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_validation_that_a_kill_prevented_is_made_up_for(tmp_path: Path, at: int, by_epoch: bool):
    options: dict[str, Any] = {}
    if by_epoch:  # of two iterations
        loader = dict(
            batch_size=4,
            dataset=[torch.randn(2) for _ in range(8)],
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=lambda batch: dict(inputs=torch.stack(batch)),
        )
        options = dict(
            train_cfg=dict(by_epoch=True, max_epochs=3),
            train_dataloader=loader,
            param_scheduler=None,
            checkpoint=dict(interval=1, by_epoch=True),
        )
    work_dir = tmp_path / 'run'
    runner = make_runner(work_dir, **options)
    runner.register_hook(Kill('after_val_epoch', at))
    with pytest.raises(Killed):
        runner.train()
    last = work_dir / (f'epoch_{at // 2}.pth' if by_epoch else f'iter_{at}.pth')
    assert last.exists()
    best = f'best_score_epoch_{at // 2}.pth' if by_epoch else f'best_score_iter_{at}.pth'
    assert best not in saved(work_dir)

    runner = make_runner(work_dir, resume=True, **options)
    validated = record_validations(runner)
    runner.train()
    assert validated == [at, *([6] if at == 4 else [])]
    final = 'best_score_epoch_3.pth' if by_epoch else 'best_score_iter_6.pth'
    assert [name for name in saved(work_dir) if name.startswith('best')] == [final]

    again = make_runner(work_dir, resume=True, **options)
    validated = record_validations(again)
    again.train()
    assert validated == []
    assert again.message_hub.get_info('best_score') == 60.0


def test_a_checkpoint_resumed_elsewhere_is_not_validated_twice(tmp_path: Path):
    make_runner(tmp_path / 'run').train()
    runner = make_runner(tmp_path / 'other', resume=True, load_from=str(tmp_path / 'run' / 'iter_4.pth'))
    validated = record_validations(runner)
    runner.train()
    assert validated == [6]


def record_validations(runner: CheckedRunner) -> list[int]:
    iterations: list[int] = []

    class Record(Hook):
        def before_val(self, runner: CheckedRunner) -> None:
            iterations.append(runner.iter)

    runner.register_hook(Record())
    return iterations


def test_a_copied_work_dir_leaves_the_original_alone(tmp_path: Path):
    runner = make_runner(tmp_path / 'original')
    runner.register_hook(Kill('before_train_iter', 4))
    with pytest.raises(Killed):
        runner.train()
    shutil.copytree(tmp_path / 'original', tmp_path / 'copy')
    before = saved(tmp_path / 'original')
    assert 'best_score_iter_4.pth' in before
    make_runner(tmp_path / 'copy', resume=True).train()
    assert saved(tmp_path / 'original') == before
    assert iteration(tmp_path / 'copy' / 'iter_6.pth') == 6
    assert [name for name in saved(tmp_path / 'copy') if name.startswith('best')] == ['best_score_iter_6.pth']


def test_resume_in_an_empty_work_dir_starts(tmp_path: Path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'last_checkpoint').write_text('/nowhere/iter_4.pth')
    make_runner(tmp_path / 'run', resume=True).train()
    assert iteration(tmp_path / 'run' / 'iter_6.pth') == 6


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(drop=('meta', 'optimizer', 'message_hub')), 'no state of a training to resume; .*load_from='),
        (dict(drop=('optimizer',)), 'was saved without optimizer, .*resume from an iter_'),
        (dict(drop=('optimizer', 'param_schedulers')), 'without optimizer and param_schedulers'),
        (dict(iter=8), 'is of iteration 8, and the config ends at 6: raise train_cfg.max_iters'),
        (dict(groups=2), 'comes from a training with another optimizer'),
    ],
    ids=str,
)
def test_what_cannot_be_resumed_is_said_in_a_sentence(tmp_path: Path, change: dict, message: str):
    make_runner(tmp_path / 'run').train()
    content = torch.load(tmp_path / 'run' / 'iter_4.pth', weights_only=False)
    for key in change.get('drop', ()):
        del content[key]
    content.get('meta', {}).update(iter=change.get('iter', 4))
    if 'groups' in change:
        content['optimizer']['param_groups'] *= change['groups']
    torch.save(content, tmp_path / 'a.pth')
    runner = make_runner(tmp_path / 'again', resume=True, load_from=str(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match=rf'a\.pth .*{message}'):
        runner.train()


def test_a_training_by_iterations_is_not_resumed_by_epochs(tmp_path: Path):
    make_runner(tmp_path / 'run').train()
    options = dict(train_cfg=dict(by_epoch=True, max_epochs=3), checkpoint=dict(by_epoch=True))
    runner = make_runner(tmp_path / 'run', resume=True, **options)
    with pytest.raises(ValueError, match=r'comes from a training by iterations \(6\), and the config trains by epochs'):
        runner.train()


def test_a_config_in_a_checkpoint_is_not_run_on_resuming(tmp_path: Path):
    make_runner(tmp_path / 'run').train()
    content = torch.load(tmp_path / 'run' / 'iter_4.pth', weights_only=False)
    content['meta']['config'] = f'import os\nos.mkdir({str(tmp_path / "sprung")!r})\n'
    torch.save(content, tmp_path / 'a.pth')
    make_runner(tmp_path / 'again', resume=True, load_from=str(tmp_path / 'a.pth')).train()
    assert not (tmp_path / 'sprung').exists()
    assert iteration(tmp_path / 'again' / 'iter_6.pth') == 6


def test_another_length_is_said_on_resuming(tmp_path: Path):
    make_runner(tmp_path / 'run').train()
    longer = make_runner(tmp_path / 'run', resume=True, train_cfg=dict(by_epoch=False, max_iters=8, val_interval=2))
    longer.train()
    assert iteration(tmp_path / 'run' / 'iter_8.pth') == 8
    log = Path(longer.log_dir, f'{longer.timestamp}.log').read_text()
    assert 'comes from a training with max_iters 6 instead of 8' in log


def test_a_work_dir_in_use_takes_no_second_training_but_a_test(tmp_path: Path):
    work_dir = tmp_path / 'run'
    make_runner(work_dir).train()
    with sole_training(work_dir):
        with pytest.raises(ValueError, match=r'run is in use by another training'):
            make_runner(work_dir).train()
        # mmengine can keep no best checkpoint outside a training.
        runner = make_runner(work_dir, load_from=str(work_dir / 'iter_6.pth'), checkpoint=dict(save_best=None))
        assert runner.val() == {'score': 0.0}
    make_runner(work_dir).train()


def test_weights_that_are_not_finite_are_not_loaded(tmp_path: Path):
    make_runner(tmp_path / 'run').train()
    content = torch.load(tmp_path / 'run' / 'iter_6.pth', weights_only=False)
    content['state_dict']['backbone.1.running_mean'][0] = torch.nan
    torch.save(content, tmp_path / 'a.pth')
    for resume in (False, True):
        runner = make_runner(tmp_path / str(resume), resume=resume, load_from=str(tmp_path / 'a.pth'))
        with pytest.raises(ValueError, match=r'a\.pth holds weights that are not finite, backbone\.1\.running_mean'):
            runner.train()


# Two processes with the imports of mmengine: ten seconds.
@pytest.mark.skipif(torch.cuda.is_available(), reason='two processes on the CPU; a GPU is here')
def test_all_ranks_stop_where_one_diverges_and_none_trains_in_a_used_work_dir(tmp_path: Path):
    run, busy = tmp_path / 'run', tmp_path / 'busy'
    busy.mkdir()
    here = Path(__file__).resolve().parent
    paths = [here, here.parent / 'helpers', here.parents[1], os.environ.get('PYTHONPATH', '')]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths)), 'OMP_NUM_THREADS': '1'}
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command = [*launcher, str(here / 'diverging_ranks.py'), str(run), str(busy), str(tmp_path)]
    with sole_training(busy):
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for rank in (0, 1):
        diverged, refused = json.loads((tmp_path / f'{rank}.json').read_text())
        assert diverged.startswith('RuntimeError: training stopped at iteration 3: the loss is not finite')
        assert f'busy is in use by another training (process {os.getpid()} on' in refused
    assert [name for name in saved(run) if name.startswith('iter')] == ['iter_2.pth']
    assert saved(busy) == []
