"""A tiny study on tiny real data: what a test measures, trainings, interruption, and the whole tool."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from tiny_runs import DET_CONFIG, PRUNING, REPO, SEG_CONFIG, make_det_data, make_seg_data, write_config
from tiny_runs import tool_environment as environment

from mmssmprune.analysis.evidence import runs
from mmssmprune.analysis.evidence.plan import (
    Run,
    StudyRow,
    StudySetting,
    checkpoint_file,
    error_file,
    result_file,
    work_dir,
)
from mmssmprune.analysis.evidence.processes import work
from mmssmprune.analysis.evidence.records import read_records, read_result, read_results
from mmssmprune.analysis.evidence.runs import measure, training_config
from mmssmprune.analysis.per_class import split
from mmssmprune.engine.runner_setup import build_runner, load_config

LEVELS = (dict(keep_ratio=1.0), dict(keep_ratio=0.5))
SMALL = dict(small_classes=('green',), shape=(96, 96), warmup=1, dense_interval=2, tune_interval=2, test_batch=3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('evidence')
    make_seg_data(folder / 'seg')
    make_det_data(folder / 'det')
    return folder


def small_setting(folder: Path, task: str, dense_iters: int = 2) -> StudySetting:
    template = {'seg': SEG_CONFIG, 'det': DET_CONFIG}[task]
    config = write_config(folder / f'tiny_{task}.py', template, folder / task)
    kind = {'seg': 'seg', 'det': 'box'}[task]
    return StudySetting(f'tiny-{task}', f'Tiny {task}', str(config), kind, dense_iters, 2, **SMALL)


@pytest.fixture(scope='module', params=['seg', 'det'])
def setting(request, folder: Path) -> StudySetting:
    return small_setting(folder, request.param)


def save_dense(setting: StudySetting, root: Path, seed: int = 0) -> Path:
    """Random weights instead of a dense training."""
    cfg = Config.fromfile(setting.config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(seed)
    path = checkpoint_file(root, Run(setting, StudyRow(None), 'free', seed).dense)
    path.parent.mkdir(parents=True)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, path)
    return path


def by_the_runner(setting: StudySetting, checkpoint: Path, pruning: dict | None, work_dir: Path) -> dict[str, float]:
    """The metrics of the config's own evaluator, image by image."""
    cfg = load_config(setting.config)
    cfg.work_dir, cfg.load_from, cfg.model.backbone.pruning = str(work_dir), str(checkpoint), pruning
    if setting.task == 'box':
        cfg.test_evaluator.classwise = True
    return build_runner(cfg, 'test').test()


@pytest.mark.parametrize('pruning', [None, PRUNING], ids=['dense', 'pruned'])
def test_a_test_measures_what_tools_test_measures(setting: StudySetting, pruning: dict | None, tmp_path: Path):
    checkpoint = save_dense(setting, tmp_path)
    found = measure(setting, pruning, checkpoint, 0, tmp_path / 'logs')
    expected = by_the_runner(setting, checkpoint, pruning, tmp_path / 'runner')
    assert found['num_images'] == (4 if setting.task == 'seg' else 2)
    if setting.task == 'seg':
        assert found['metrics'] == pytest.approx({name: float(value) for name, value in expected.items()})
        classes = found['per_class']['IoU']
        assert list(classes) == ['ground', 'red', 'green']
        assert sum(classes.values()) / 3 == pytest.approx(expected['mIoU'], abs=0.006)  # it rounds to 0.01
    else:
        classes = found['per_class']['bbox']
        for name in ('red', 'green'):  # in percent, and it rounds to 0.001
            assert classes[name] / 100 == pytest.approx(expected[f'coco/{name}_precision'], abs=6e-4)
        assert found['metrics']['coco/bbox_mAP'] == pytest.approx(sum(classes.values()) / 200)
        assert found['metrics']['coco/bbox_mAP'] == pytest.approx(expected['coco/bbox_mAP'], abs=6e-4)
    assert found['tokens'] == ([36] * 4 if pruning is None else [36, 36, 26, 26])
    assert (found['reduction'] == 0) == (pruning is None)
    assert 0 <= found['reduction'] < 0.5


def test_a_perfect_detector_has_all_of_every_class(folder: Path):
    setting = small_setting(folder, 'det')
    cfg = runs.testing_config(setting)
    init_default_scope(cfg.default_scope)
    loader = Runner.build_dataloader(cfg.test_dataloader)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        samples = batch['data_samples']
        for sample in samples:
            boxes = sample.gt_instances
            sample.pred_instances = type(boxes)(
                bboxes=boxes.bboxes.tensor, labels=boxes.labels, scores=torch.ones(len(boxes))
            )
            sample.pred_instances = sample.pred_instances[boxes.labels == 1]  # nothing of the first class
        evaluator.process(data_samples=samples, data_batch=batch)
    metrics, per_class = split(evaluator.evaluate(2))
    assert per_class == {'bbox': {'red': 0.0, 'green': pytest.approx(100.0)}}
    assert metrics['coco/bbox_mAP'] == pytest.approx(0.5)


def test_nothing_detected_is_zero(folder: Path, tmp_path: Path):
    setting = small_setting(folder, 'det')
    config = Path(setting.config).read_text().replace('score_thr=0.0', 'score_thr=2.0')
    (tmp_path / 'none.py').write_text(config)
    setting = dataclasses.replace(setting, config=str(tmp_path / 'none.py'))
    found = measure(setting, None, save_dense(setting, tmp_path), 0, tmp_path / 'logs')
    assert found['metrics']['coco/bbox_mAP'] == 0.0
    assert found['per_class'] == {'bbox': {'red': 0.0, 'green': 0.0}}


def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path):
    setting = small_setting(folder, 'seg')
    checkpoint = save_dense(setting, tmp_path)
    state = torch.load(checkpoint)['state_dict']
    state.pop('backbone.layers.1.mamba.D')
    torch.save({'state_dict': state}, checkpoint)
    with pytest.raises(ValueError, match=r'another architecture .*: 1 key missing in it \(backbone.layers.1.mamba.D\)'):
        measure(setting, PRUNING, checkpoint, 0, tmp_path / 'logs')


def test_a_free_run_of_many_levels(folder: Path, tmp_path: Path):
    setting, places = small_setting(folder, 'seg'), tmp_path
    save_dense(setting, places, seed=3)
    run = Run(setting, StudyRow(PRUNING, tests=LEVELS), 'free', 3, 'levels/x')
    runs.execute(run, places)
    whole, half = read_result(result_file(places, run))['tests']
    assert whole['tokens'] == [36] * 4
    assert half['tokens'] == [36, 36, 18, 18]
    assert whole['reduction'] == pytest.approx(0, abs=1e-9) and 0 < half['reduction'] < 0.5
    assert whole['metrics'] != half['metrics']
    assert not work_dir(places, run).exists()


def test_random_importance_follows_the_seed(folder: Path, tmp_path: Path):
    setting, places = small_setting(folder, 'seg'), tmp_path
    pruning, dense = PRUNING | {'importance': 'random'}, save_dense(setting, places)
    first, again, other = (measure(setting, pruning, dense, seed, tmp_path / 'logs')['metrics'] for seed in (0, 0, 1))
    assert first == again != other


def test_the_config_of_a_fine_tuning(tmp_path: Path):
    base = REPO / 'configs/vim/vim-mini_upernet_1xb8-450i_mini-ade-128x128.py'
    setting = StudySetting('vim-seg', 'Vim', str(base), 'seg', 1200, 150)
    row = StudyRow(
        PRUNING, cfg=dict(custom_hooks=[dict(type='Hook')], optim_wrapper=dict(clip_grad=dict(max_norm=1.0)))
    )
    cfg, dense = training_config(Run(setting, row, 'tuned', 2), tmp_path / 'dense.pth'), load_config(str(base))
    assert cfg.model.backbone.pruning.to_dict() == PRUNING
    assert (cfg.randomness.seed, cfg.load_from) == (2, str(tmp_path / 'dense.pth'))
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(dense.optim_wrapper.optimizer.lr / 5)
    assert [(stage.begin, stage.end) for stage in cfg.param_scheduler] == [(0, 10), (10, 150)]
    assert cfg.train_cfg.max_iters == 150 < cfg.train_cfg.val_begin
    assert (cfg.custom_hooks, cfg.optim_wrapper.clip_grad.max_norm) == ([dict(type='Hook')], 1.0)
    assert cfg.optim_wrapper.clip_grad.norm_type == dense.optim_wrapper.clip_grad.norm_type
    assert cfg.model.decode_head == dense.model.decode_head


def test_the_config_of_a_dense_training(folder: Path):
    setting = dataclasses.replace(small_setting(folder, 'seg', 7), options={'train_dataloader.batch_size': 4})
    cfg = training_config(Run(setting, StudyRow(PRUNING), 'free', 3).dense)
    assert (cfg.model.backbone.pruning, cfg.get('load_from'), cfg.randomness.seed) == (None, None, 3)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval, cfg.param_scheduler[-1].end) == (7, 7, 7)
    assert cfg.train_dataloader.batch_size == 4


def test_no_time_starts_nothing(folder: Path, tmp_path: Path):
    setting, told = small_setting(folder, 'seg'), []
    save_dense(setting, tmp_path)
    assert work([Run(setting, StudyRow(PRUNING), 'free', 0)], tmp_path, minutes=0, tell=told.append) == {}
    assert (told, read_results(tmp_path)) == ([], {})


def test_a_process_that_dies_is_told(folder: Path, tmp_path: Path):
    """And while it is tried again, nothing says that it failed."""
    setting = small_setting(folder, 'seg')
    save_dense(setting, tmp_path)
    errors = tmp_path / setting.name / 'errors'
    last_words = f'print(len(list(Path({str(errors)!r}).glob("*.txt"))), "failed before", flush=True)'
    (tmp_path / 'dies.py').write_text(f'import os\nfrom pathlib import Path\n{last_words}\nos._exit(9)')
    run = Run(dataclasses.replace(setting, config=str(tmp_path / 'dies.py')), StudyRow(None), 'free', 0)
    for _ in range(2):
        failed = work([run], tmp_path)
        assert failed[run.name].endswith('\n0 failed before\nits process ended with code 9')
        assert [path.read_text()[-16:] for path in errors.iterdir()] == ['0 failed before\n']
        assert error_file(tmp_path, run).exists()


HANG_UP = """
import os, runpy, signal, sys
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[2]))
runpy.run_path(sys.argv[1])['heed_signals']()
os.kill(os.getpid(), signal.SIGHUP)
print('goes on')
"""


@pytest.mark.parametrize(('before', 'printed'), [('SIG_IGN', 'goes on\n'), ('SIG_DFL', '')])
def test_a_closed_terminal_ends_it_but_not_under_nohup(before: str, printed: str):
    tool = [sys.executable, '-c', HANG_UP, str(REPO / 'tools/evidence.py'), before]
    ended = subprocess.run(tool, env=environment(), capture_output=True, text=True)
    assert ended.stdout == printed and ('KeyboardInterrupt: 1' in ended.stderr) == (not printed)


PLAN = """
import dataclasses
from mmssmprune.analysis.evidence.plan import Study, StudyRow, StudySetting
SETTING = StudySetting(**{setting})
SETTINGS = [SETTING, dataclasses.replace(SETTING, name='broken', options={{'optim_wrapper.optimizer.lr': 'much'}})]
PRUNING = {pruning}
BAD = StudyRow(PRUNING | dict(layers=[9]), ('free',))
STUDIES = [Study('tiny', 'Tiny study', 'Does it work?', {{'dense': None, 'pruned': PRUNING, 'bad': BAD}}, 'dense')]
"""


def evidence(folder: Path, *args: object, **options) -> subprocess.Popen:
    command = [sys.executable, str(REPO / 'tools/evidence.py'), '--plan', 'plan.py', '--seeds', '0', '--out', 'out']
    command += ['--work-dir', 'work', *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=pipe, stderr=pipe, text=True, **options)


def write_plan(folder: Path, setting: StudySetting) -> None:
    (folder / 'plan.py').write_text(PLAN.format(setting=dataclasses.asdict(setting), pruning=PRUNING))


def test_the_tool_from_nothing_to_the_report(folder: Path, tmp_path: Path):
    write_plan(tmp_path, small_setting(folder, 'seg'))
    out, err = (process := evidence(tmp_path, '--only', '*/[pb]*')).communicate(timeout=500)
    assert process.returncode == 1, out + err
    assert 'FAILED tiny-seg/tiny/bad/free/seed0' in out
    assert 'layer 9, but this backbone has layers 0 to 3' in out
    assert 'FAILED broken/dense model/training/seed0' in out
    assert 'FAILED broken/tiny/pruned/free/seed0\nits dense training failed' in out
    assert '2 runs done, 0 were done before, 4 failed, 0 left' in out
    work = tmp_path / 'work'
    free, tuned = sorted(read_records(work), key=lambda record: record['phase'])
    assert (free['phase'], tuned['phase']) == ('free', 'tuned')
    assert free['checkpoint_hash'] == free['dense_checkpoint_hash'] == tuned['dense_checkpoint_hash']
    assert tuned['checkpoint_hash'] != free['checkpoint_hash']
    assert [path.name for path in work.rglob('*.pth')] == ['iter_2.pth']  # only the dense one stays
    page = (tmp_path / 'out/ablations.md').read_text()
    assert '| pruned | 1 |' in page and '| dense | 0 | not run |' in page and '| bad | 0 | not run |' in page
    assert (tmp_path / 'out/figures/tiny.png').read_bytes()[:4] == b'\x89PNG'

    before = {path: path.stat().st_mtime_ns for path in read_results(work)}
    again = evidence(tmp_path, '--settings', 'tiny-seg', '--only', '*/pruned/*')
    out, err = again.communicate(timeout=500)
    assert again.returncode == 0, out + err
    assert '0 runs done, 2 were done before' in out
    assert {path: path.stat().st_mtime_ns for path in read_results(work)} == before


def test_a_damaged_report_is_refused_before_anything_runs(folder: Path, tmp_path: Path):
    write_plan(tmp_path, small_setting(folder, 'seg'))
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/results.csv').write_text('setting,seed\n')
    out, err = (process := evidence(tmp_path)).communicate(timeout=500)
    assert process.returncode == 2 and 'results.csv is damaged (it has no column label); delete it' in out + err
    assert not (tmp_path / 'work').exists() and 'Traceback' not in err


@pytest.mark.slow
def test_killed_and_started_again(folder: Path, tmp_path: Path):
    """kill -9 of the tool takes its training along; the next start goes on from the last checkpoint."""
    setting = small_setting(folder, 'seg', dense_iters=3000)
    write_plan(tmp_path, setting)
    command = ('--settings', 'tiny-seg', '--phase', 'free', '--only', '*/dense/*')
    dense = tmp_path / 'work/tiny-seg/dense/seed0'
    process = evidence(tmp_path, *command)
    deadline = time.monotonic() + 300
    while not list(dense.glob('iter_[1-9]*[05].pth')) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(5)
    saved = sorted(dense.glob('iter_*.pth'))
    time.sleep(3)
    assert sorted(dense.glob('iter_*.pth')) == saved  # nobody trains any more
    done = max(int(path.stem[5:]) for path in saved)
    write_plan(tmp_path, dataclasses.replace(setting, dense_iters=done + 2))
    out, err = (process := evidence(tmp_path, *command)).communicate(timeout=500)
    assert process.returncode == 0, out + err
    assert any(f'resumed epoch: 0, iter: {done}' in path.read_text() for path in dense.rglob('*.log'))
    assert '1 runs done' in out
