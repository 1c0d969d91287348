"""The dense real configs train on inputs of their real size, on this machine, through tools/train.py."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in_data import make_ade20k, make_coco

REPO = Path(__file__).resolve().parents[2]
COMMON = ['model.backbone.init_cfg=None', 'default_hooks.logger.interval=1']
COMMON += [f'{loader}_dataloader.{option}' for loader in ('train', 'val') for option in (
    'num_workers=0', 'persistent_workers=False')]  # fmt: skip


def train(config: str, data: Path, work_dir: Path, options: list[str]) -> list[dict]:
    """Run tools/train.py; gives what it logged. Fails above 8 GiB of memory."""
    command = [sys.executable, REPO / 'tools/train.py', REPO / 'configs/plain_mamba' / config]
    command += ['--work-dir', work_dir, '--cfg-options', *COMMON, *options]
    path = os.pathsep.join([str(REPO), os.environ.get('PYTHONPATH', '')]).rstrip(os.pathsep)
    environment = {**os.environ, 'PYTHONPATH': path, 'MMSSMPRUNE_DATA_ROOT': str(data)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 8 * 2**20  # KiB
    return [json.loads(line) for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]


@pytest.mark.slow
def test_upernet_on_ade20k(tmp_path: Path):
    options = ['train_cfg.max_iters=1', 'train_cfg.val_interval=1']
    config = 'plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512.py'
    step, metrics = train(config, make_ade20k(tmp_path), tmp_path / 'work', options)
    # Cross entropy of a uniform guess over 150 classes, once for the head and 0.4 times for the auxiliary one.
    assert step['loss'] == pytest.approx(1.4 * math.log(150), abs=1.5)
    assert 0 <= metrics['mIoU'] <= 100


@pytest.mark.slow
def test_mask_rcnn_on_coco(tmp_path: Path):
    # Without gradient checkpointing the same step takes 13 GiB.
    options = ['train_cfg.max_epochs=1', 'model.backbone.with_cp=True']
    config = 'plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco.py'
    step, *metrics = train(config, make_coco(tmp_path), tmp_path / 'work', options)
    assert math.isfinite(step['loss'])
    assert step['loss_cls'] == pytest.approx(math.log(81), abs=1.0)
    assert all('coco/segm_mAP' in entry for entry in metrics)
