"""Two processes train side by side on the CPU: they stay equal, and pruning needs no word between them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from two_processes import TRAININGS, even_batches, train

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='two processes on the CPU; a GPU is here')


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two ranks report of all trainings; a hang ends as a failure after five minutes."""
    folder = tmp_path_factory.mktemp('ranks')
    paths = [HERE, HERE.parent / 'helpers', HERE.parents[1], os.environ.get('PYTHONPATH', '')]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths)), 'OMP_NUM_THREADS': '1'}
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command = [*launcher, str(HERE / 'two_processes.py'), str(folder)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-1000:] + run.stderr[-3000:]
    return [torch.load(folder / f'rank{i}.pth', weights_only=False) for i in (0, 1)]


def shared_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All but what BatchNorm counts on its own on each rank, since there is no SyncBatchNorm on the CPU."""
    return {name: value for name, value in state.items() if 'running_' not in name}


@pytest.mark.parametrize('name', TRAININGS)
def test_ranks_end_with_equal_weights(ranks: list[dict[str, Any]], name: str):
    first, second = (shared_state(rank[name]['state']) for rank in ranks)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.isfinite(value.float()).all()
        assert torch.equal(value, second[key]), key
    assert all(len(rank[name]['losses']) == len(ranks[0][name]['losses']) >= 2 for rank in ranks)


def test_two_ranks_are_one_process_with_their_batches(ranks: list[dict[str, Any]], tmp_path: Path):
    """Each image is pruned by itself, so how a batch is spread over processes changes rounding only."""
    alone = train(tmp_path, **even_batches(2))
    for step, loss in enumerate(alone['losses']):
        both = [rank['even batches']['losses'][step] for rank in ranks]
        assert sum(both) / 2 == pytest.approx(loss, rel=1e-5)
        assert both[0] != both[1]
    for key, value in alone['state'].items():
        torch.testing.assert_close(ranks[0]['even batches']['state'][key], value, rtol=1e-4, atol=1e-5)


def test_ranks_may_keep_different_numbers_of_tokens(ranks: list[dict[str, Any]]):
    for name in ('pruned', 'mask token', 'detector'):
        tokens = [rank[name]['tokens'] for rank in ranks]
        assert all(small[-1] < large[-1] for small, large in zip(*tokens, strict=True)), name


def test_last_batches_may_differ(ranks: list[dict[str, Any]]):
    sizes = [[image[0] for image in rank['unequal last batches']['images']] for rank in ranks]
    assert sizes == [[2, 2, 2, 2], [2, 1, 2, 1]]
    padded = [[image[0] for image in rank['padded epochs']['images']] for rank in ranks]
    assert padded == [[2, 1, 2, 1]] * 2


@pytest.mark.parametrize('name', ['elastic', 'elastic, mask token', 'warm-up'])
def test_hooks_set_the_same_ratio_on_all_ranks(ranks: list[dict[str, Any]], name: str):
    first, second = (rank[name]['ratios'] for rank in ranks)
    assert first == second
    assert len(set(first)) > 1
