"""Every command on the pages runs in the form in which it stands there.

Placeholders such as <config> become real files. Trainings and tests run up to their first image, that is with config,
options, data set, model, weights, optimizer and schedule built; whatever is cheap runs to its end, benchmarks at the
smallest sizes. dist_*.sh and slurm_*.sh run with stand-ins for torchrun and srun, and what these would start runs here
as one process: tests/test_tools/test_distributed.py has several.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import COMMAND, SCRIPTS, commands
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine_state import forget_earlier_runs
from pages import REPO, code_blocks, pages, prose
from solve_once import solve_each_target_once
from user_folder import (
    RELEASED,
    make_user_folder,
    provide_camvid,
    provide_checkpoint,
    provide_comparison,
    provide_download,
    provide_photos,
    provide_released,
    provide_work_dir,
)

from mmssmprune._command_line import CfgOptionsAction
from mmssmprune._stack import StackError, check_mmpretrain
from mmssmprune.analysis.comparison import measure
from mmssmprune.engine import runner_setup
from mmssmprune.engine.cfg_options import merge_cfg_options

MINI = 'configs/plain_mamba/plain-mamba-mini{}_upernet_1xb8-450i_mini-ade-128x128.py'
DENSE, PRUNED = MINI.format(''), MINI.format('-top70')
WORK_DIRS = f'work_dirs/{Path(DENSE).stem} work_dirs/{Path(PRUNED).stem}'
IMAGE = 'data/mini_ade/images/validation/*.png'
# One config for each family and task, with a keep ratio and with a target.
OF_EACH_KIND = [
    'configs/plain_mamba/plain-mamba-l1-flops30_upernet_8xb2-160k_ade20k-512x512.py',
    'configs/plain_mamba/plain-mamba-adapter-l1-top70_mask-rcnn_8xb2-1x_coco.py',
    'configs/plain_mamba/plain-mamba-adapter-l1-flops30_mask-rcnn_8xb2-1x_coco.py',
    'configs/plain_mamba/plain-mamba-adapter-l1-flops30_retinanet_8xb2-1x_coco.py',
    PRUNED,
    'configs/vim/vim-t-flops20_upernet_4xb8-60k_ade20k-512x512.py',
    'configs/vim/vim-t-flops30_mask-rcnn_8xb8-lsj-100e_coco-1024x1024.py',
    'configs/vim/vim-t-flops11-finetune_8xb64-30e_in1k.py',
]
# What a reader puts in the place of words: (as it stands on a page, what it becomes; several make several commands).
FILLED = [
    ('<config> <checkpoint>', [f'{config} work_dirs/any/{Path(config).stem}.pth' for config in OF_EACH_KIND]),
    ('<config>', [OF_EACH_KIND[0], OF_EACH_KIND[5]]),
    ('work_dirs/<dense> work_dirs/<pruned>', [WORK_DIRS]),
    ('<dense> <top70>', [WORK_DIRS]),
    ('configs/vim/<dense>.py configs/vim/<pruned>.py', [f'{DENSE} {PRUNED}']),
    ('MODEL [MODEL ...]', [WORK_DIRS]),
    ('CONFIG CHECKPOINT IMAGES...', [f'{PRUNED} work_dirs/any/mini.pth {IMAGE}']),
    ('DENSE_CHECKPOINT data/mini_ade/images/validation/MINI_val_000003.png', [f'work_dirs/any/mini.pth {IMAGE}']),
    ('dist_train.sh ...', [f'dist_train.sh {PRUNED} 2']),
    ('CONFIG 2', [f'{PRUNED} 2']),
    ('/disk/', ['disk/']),
]
# Added to what would take long: the last of two equal options counts.
ONCE = '--runs 1 --warmup 0 --no-memory'
SHORTENED = {
    'tools/evidence.py': '--list',
    'tools/compare.py': '--runs 1',
    'tools/benchmarks/benchmark_scan.py': f'--shapes vim-t:30x48:2 --kept 0.5 {ONCE}',
    'tools/benchmarks/benchmark_backbone.py': f'--sizes 32x32 --batches 1 --keep-ratios 0.5 {ONCE}',
    'tools/benchmarks/benchmark_e2e.py': f'--shape 64 64 --batch 1 {ONCE}',
    'tools/benchmarks/run_on_gpu.py': '--minutes 0.001',
}
# Not run here: (part of the command, where it is).
ELSEWHERE = [
    ('strategy.type=FSDPStrategy', 'tests/test_tools/test_distributed.py'),
    ('tools/train.py my_', 'test_extend.py and, whole, the slow test below'),
    ('tools/demo.sh', 'make demo'),
    ('work_dirs/example_comparison/', 'docs/example_comparison/run.sh, of which it is the last step'),
]
# The names of files in the addresses of configs.
RELEASES = r'(?:resolve/main|releases/download/[^/\s]+)/(\S+?\.pth)'


class Reached(BaseException):
    """A training or a test is about to begin."""


class StopAtTheFirstImage(Hook):
    """Loads one image as the run would, and stops it."""

    def before_train(self, runner: Runner) -> None:
        assert 'inputs' in runner.train_dataloader.dataset[0]
        assert runner.optim_wrapper.param_groups
        raise Reached

    def before_test(self, runner: Runner) -> None:
        assert 'inputs' in runner.test_dataloader.dataset[0]
        raise Reached


def commands_of(page: Path) -> list[str]:
    text = page.read_text()
    found = [line for language in ('bash', '', 'sh') for code in code_blocks(text, language) for line in commands(code)]
    return found + [code for code in re.findall(r'`([^`\n]+)`', prose(text)) if COMMAND.match(code)]


def fill(command: str) -> list[str]:
    """The command as a reader types it, once for each thing that a placeholder may stand for."""
    for words, values in FILLED:
        if words in command:
            return [filled for value in values for filled in fill(command.replace(words, value))]
    assert not re.search(r'<\w+>|\.\.\.|\[', re.sub(r'=\[.*?\]', '', command)), f'{command}: no value for a placeholder'
    return [command]


def all_commands() -> list:
    """As parameters; quick is the first with each set of options of a tool, and the first of each benchmark."""
    once = dict.fromkeys(' '.join(command.split()) for page in pages() for command in commands_of(page))
    here = [command for command in once if not any(part in command for part, _ in ELSEWHERE)]
    found, kinds = [], set()
    for command in dict.fromkeys(filled for each in here for filled in fill(each)):
        tool = COMMAND.match(command)[1]
        kind = (tool, 'benchmarks' in tool or frozenset(word for word in command.split() if word.startswith('--')))
        # Two models of real size train there, and here FLOPs of real models or a whole family are counted and solved.
        slow = kind in kinds or tool.endswith('benchmark_e2e.py') or '*' in command or '.py:checkpoints/' in command
        found.append(pytest.param(command, marks=[pytest.mark.slow] if slow else [], id=command))
        kinds.add(kind)
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_user_folder(tmp_path_factory.mktemp('user'))


@pytest.fixture
def user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the current one; released weights are in torch's cache, as after their first download."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv('TORCH_HOME', str(folder / 'torch'))
    monkeypatch.delenv('MMSSMPRUNE_DATA_ROOT', raising=False)
    monkeypatch.delenv('RANK', raising=False)
    build_runner = runner_setup.build_runner

    def build_and_stop(cfg: object, mode: str) -> Runner:
        runner = build_runner(cfg, mode)
        runner.register_hook(StopAtTheFirstImage(), priority='LOWEST')
        return runner

    monkeypatch.setattr(runner_setup, 'build_runner', build_and_stop)
    monkeypatch.setattr(measure, 'build_runner', build_and_stop)
    solve_each_target_once(monkeypatch)
    yield folder


def started_by(script: str, arguments: list[str], environment: dict[str, str], folder: Path) -> tuple[str, list[str]]:
    """The tool and its arguments that a launcher script hands to torchrun or srun."""
    for name in ('python', 'srun'):
        (folder / 'bin').mkdir(exist_ok=True)
        echo = folder / 'bin' / name
        echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        echo.chmod(0o755)
    environment = {**os.environ, **environment, 'PATH': f'{folder / "bin"}{os.pathsep}{os.environ["PATH"]}'}
    run = subprocess.run(['bash', script, *arguments], env=environment, capture_output=True, text=True, check=True)
    words = run.stdout.splitlines()
    (place,) = [i for i, word in enumerate(words) if word.endswith(('/train.py', '/test.py'))]
    assert words[-2] == '--launcher'
    return f'tools/{Path(words[place]).name}', words[place + 1 : -2]


def provide(user: Path, tool: str, arguments: list[str]) -> None:
    """Make the files that the command reads and a user would have by then."""
    config = next((word for word in arguments if word.endswith('.py')), None)
    if tool.endswith('prepare_data.py'):
        provide_photos(user, *arguments[:2])
    if 'camvid' in (config or ''):
        provide_camvid(user)
    if tool.endswith('convert_official.py'):
        (user / arguments[1]).unlink(missing_ok=True)
        arguments = arguments[:1]
    for before, word in zip(['', *arguments], arguments, strict=False):
        path = word.rpartition('=')[2]
        name = path.rpartition('/')[2]
        if path.startswith('https://') and name in RELEASED:
            provide_download(user, name)
        elif path in RELEASED:
            provide_released(user, path)
        elif '.py:' in path:
            its_config, _, checkpoint = path.partition(':')
            provide_checkpoint(user, checkpoint, its_config)
        elif path.startswith('work_dirs/first_table/') and before != '--out':
            provide_comparison(user, path)
        elif path.startswith('work_dirs/x/'):
            provide_checkpoint(user, path, OF_EACH_KIND[0])
        elif path.endswith('.pth') and config:
            provide_checkpoint(user, path, config)
        elif path.startswith('work_dirs/') and tool == 'tools/compare.py' and (REPO / config_of(path)).is_file():
            provide_work_dir(user, Path(path).name, config_of(path))
    if tool == 'tools/train.py' and config:
        for name in re.findall(RELEASES, runner_setup.load_config(config).pretty_text):
            provide_download(user, name)


def config_of(work_dir: str) -> str:
    """The config whose name a work_dir has."""
    name = Path(work_dir).name
    family = next((family for family in ('vim', 'vmamba') if name.startswith(family)), 'plain_mamba')
    return f'configs/{family}/{name}.py'


def run(tool: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | type[Reached]:
    """Its exit code, or Reached."""
    forget_earlier_runs()
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    try:
        runpy.run_path(tool, run_name='__main__')
    except Reached:
        return Reached
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# The 38 quick ones take about three minutes of one core, most of it for building models of real size and for counting
# FLOPs, the slow ones as much again.
@pytest.mark.parametrize('command', all_commands())
def test_a_command_of_the_pages_runs(
    command: str, user: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    words = shlex.split(command)
    start = next(i for i, word in enumerate(words) if word in ('python', 'bash'))
    environment = dict(word.split('=', 1) for word in words[:start])
    tool, arguments = words[start + 1], words[start + 2 :]
    arguments = [path for word in arguments for path in (sorted(map(str, Path().glob(word))) or [word])]
    if 'in1k' in command:
        try:
            check_mmpretrain()
        except StackError as error:
            pytest.skip(str(error))
    if tool.rpartition('/')[2] in SCRIPTS:
        tool, arguments = started_by(tool, arguments, environment, user)
    provide(user, tool, arguments)
    if '--resume' in arguments:  # other commands leave weights alone in the folder of this config
        arguments += ['--work-dir', 'work_dirs/nothing_yet']
    ended = run(tool, [*arguments, *shlex.split(SHORTENED.get(tool, ''))], monkeypatch)
    told = capfd.readouterr()
    if tool in ('tools/train.py', 'tools/test.py'):
        assert ended is Reached, told.err[-2000:]
    elif tool == 'tools/dataset_tools/check_data.py':
        assert ended in (0, 1), told.err[-2000:]  # two noise images are few
    elif tool == 'tools/benchmarks/run_on_gpu.py':
        assert 'not run' in told.out
    else:
        assert ended in (0, Reached), told.err[-2000:]


OPTIONS = re.compile(r'--cfg-options((?: \+?[a-z_]+[\w.]*=[^\s`]+)+)')


# 10 s on one core: some fifty configs are read.
def test_options_named_in_pages_and_configs_are_taken():
    """Those of the text are tried on a pruned config, those of a config's comments on that config."""
    places = [(page, OF_EACH_KIND[0]) for page in pages()]
    places += [(path, path) for path in sorted((REPO / 'configs').glob('*/*.py')) if '_base_' not in path.parts]
    tried = 0
    for place, config in places:
        for options in OPTIONS.findall(place.read_text()):
            options = re.sub(r'<[^>]*>|PATH', 'a.pth', options).split()
            if options == ['a.b=1']:
                continue
            parser = argparse.ArgumentParser()
            parser.add_argument('--cfg-options', nargs='+', action=CfgOptionsAction)
            cfg = Config.fromfile(REPO / config)
            merge_cfg_options(cfg, parser.parse_args(['--cfg-options', *options]).cfg_options)
            tried += 1
    assert tried > 15
