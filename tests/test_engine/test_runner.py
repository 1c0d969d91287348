"""Checkpoints appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.model import BaseModel
from mmengine_state import forget_earlier_runs
from torch import nn

from mmssmprune.checkpoints.reading import is_complete_checkpoint
from mmssmprune.engine.runner import CheckedRunner


class TinyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 2)

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor'):
        out = self.backbone(inputs)
        return {'loss': out.square().mean()} if mode == 'loss' else out


def make_runner(work_dir: Path, max_keep: int = 3) -> CheckedRunner:
    return CheckedRunner(
        model=TinyModel(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=1,
            dataset=[torch.ones(2)] * 4,
            sampler=dict(type='InfiniteSampler'),
            collate_fn=lambda batch: dict(inputs=torch.stack(batch)),
        ),
        train_cfg=dict(by_epoch=False, max_iters=4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False, max_keep_ckpts=max_keep)),
        experiment_name=work_dir.name,
    )


def test_a_save_that_dies_halfway_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put = LocalBackend.put

    def dies_at_iteration_4(self, obj: bytes, filepath: str) -> None:
        if 'iter_4' not in str(filepath):
            put(self, obj, filepath)
            return
        put(self, obj[: len(obj) // 2], filepath)
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalBackend, 'put', dies_at_iteration_4)
    with pytest.raises(KeyboardInterrupt):
        make_runner(tmp_path / 'dies').train()
    assert sorted(path.name for path in (tmp_path / 'dies').glob('*.pth*')) == ['iter_2.pth']
    assert is_complete_checkpoint(tmp_path / 'dies' / 'iter_2.pth')

    monkeypatch.undo()
    forget_earlier_runs()  # within one second mmengine would hand the new run the old one's list of checkpoints
    make_runner(tmp_path / 'dies').train()
    assert sorted(path.name for path in (tmp_path / 'dies').glob('*.pth*')) == ['iter_2.pth', 'iter_4.pth']
    assert torch.load(tmp_path / 'dies' / 'iter_4.pth', weights_only=False)['meta']['iter'] == 4


def test_a_foreign_checkpoint_changes_nothing(tmp_path: Path):
    runner = make_runner(tmp_path / 'foreign')
    before = runner.model.backbone.weight.clone()
    torch.save({'state_dict': {'backbone.weight': torch.ones(2, 2)}}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth is of another architecture .* missing in it \(backbone\.bias\)'):
        runner.load_checkpoint(str(tmp_path / 'a.pth'))
    assert torch.equal(runner.model.backbone.weight, before)


class Trap:
    """Unpickled without care, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path):
    runner = make_runner(tmp_path / 'run')
    trap = Trap(tmp_path / 'sprung')
    torch.save({'state_dict': runner.model.state_dict(), 'meta': {'config': trap}}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='was not loaded: unpickling it could run code'):
        runner.load_checkpoint(str(tmp_path / 'a.pth'))
    assert not trap.path.exists()


class CountImages(BaseMetric):
    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += [1] * len(data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(images=float(len(results)))


@pytest.mark.parametrize(('rank', 'written'), [(0, 1), (1, 0)])
def test_one_process_writes_what_a_test_measured(
    rank: int, written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """mmengine's hook writes it from every process to one file, which may then end twice."""
    runner = CheckedRunner(
        model=TinyModel(),
        work_dir=str(tmp_path),
        test_dataloader=dict(
            batch_size=1,
            dataset=[torch.ones(2)] * 3,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=lambda batch: dict(inputs=torch.stack(batch)),
        ),
        test_cfg=dict(type='TestLoop'),
        test_evaluator=CountImages(),
        experiment_name=f'rank {rank}',
    )
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: rank)
    runner.test()
    assert len(list(tmp_path.glob('*/*.json'))) == written
