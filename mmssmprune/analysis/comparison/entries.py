"""What is to be compared: configs with their checkpoints, found from what a user types."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config

from mmssmprune.analysis.results import digest, file_digest
from mmssmprune.analysis.tasks import Task, task_of
from mmssmprune.checkpoints.reading import check_checkpoint_file, read_checkpoint
from mmssmprune.checkpoints.resuming import find_resume_checkpoint
from mmssmprune.datasets import check_data_root, stated_paths
from mmssmprune.engine.runner_setup import SUPPORTED_SCOPES, load_config

Weights = Literal['checkpoint', 'random', 'none']

_TEST_SECTIONS = ('default_scope', 'model', 'test_dataloader', 'test_evaluator', 'test_cfg')
# What shortens a training, and by what name tables call it.
_LENGTHS = {'max_iters': 'iterations', 'max_epochs': 'epochs'}


@dataclass(frozen=True, eq=False)
class Entry:
    """One model of a comparison: a config, and the checkpoint to test it with if there is one.

    Attributes:
        name: how tables call it, the stem of the config's file name.
        cfg: the config, ``--cfg-options`` merged.
        config_path: its file.
        checkpoint: the weights' file, or None.
        task: what it is measured by.
        weights: what it is tested with: the checkpoint, seeded random weights, or nothing, where it is not run.
    """

    name: str
    cfg: Config
    config_path: Path
    checkpoint: Path | None
    task: Task
    weights: Weights = 'checkpoint'

    @property
    def pruning(self) -> dict[str, Any] | None:
        """The backbone's pruning dict, None for a dense model."""
        return self.cfg.model.backbone.get('pruning')

    @property
    def keep_ratio(self) -> float | list[float] | None:
        """The keep ratio that the config sets; 1.0 for a dense model, None where it is solved for a target."""
        return 1.0 if self.pruning is None else self.pruning.get('keep_ratio')

    @property
    def family(self) -> str:
        """Backbone and size: ``PlainMamba-L1``, ``Vim-S``, or the backbone alone where the config spells it out."""
        backbone = self.cfg.model.backbone
        kind, arch = str(backbone.type).rsplit('.', 1)[-1], backbone.get('arch')
        if not isinstance(arch, str):
            return kind
        size = {'tiny': 'T', 'small': 'S', 'base': 'B'}.get(arch.lower(), arch.upper())
        return f'{kind}-{size}'

    @property
    def training(self) -> dict[str, Any]:
        """Length of the training and the types of its own hooks, which tell methods of equal pruning apart."""
        loop = self.cfg.get('train_cfg') or {}
        lengths = {name: loop[key] for key, name in _LENGTHS.items() if loop.get(key) is not None}
        return {**lengths, 'hooks': [str(hook.get('type')) for hook in self.cfg.get('custom_hooks') or []]}

    @cached_property
    def trained(self) -> dict[str, int | None]:
        """``seed`` and ``iteration`` of the training as the checkpoint says them, None where it does not."""
        checkpoint = read_checkpoint(str(self.checkpoint), map_location='meta') if self.checkpoint else {}
        meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
        said = {'seed': meta.get('seed'), 'iteration': meta.get('iter')} if isinstance(meta, Mapping) else {}
        return {name: value if type(value) is int and value >= 0 else None for name, value in said.items()}

    @cached_property
    def schedule_hash(self) -> str:
        """Of how it is trained: optimizer, learning rates, batches and data, from scratch or from a checkpoint."""
        sections = self.cfg.to_dict()
        how = {name: sections.get(name) for name in ('optim_wrapper', 'param_scheduler', 'train_dataloader')}
        return digest([how, bool(sections.get('load_from'))])

    @cached_property
    def dense_model_hash(self) -> str:
        """Equal for a pruned model and the dense one that it was made from."""
        model = copy.deepcopy(self.cfg.model.to_dict())
        model['backbone'].pop('pruning', None)
        return digest(_rewrite(model, _without_init_cfg))

    @cached_property
    def model_hash(self) -> str:
        """Of the config's model."""
        return digest([self.cfg.get('default_scope'), self.cfg.model.to_dict()])

    @cached_property
    def config_hash(self) -> str:
        """Of all that decides a test; training settings may differ."""
        sections = self.cfg.to_dict()
        return digest({name: sections.get(name) for name in _TEST_SECTIONS})

    @cached_property
    def checkpoint_hash(self) -> str | None:
        """SHA-256 of the checkpoint's bytes; None where the model is not run."""
        if self.checkpoint is None:
            return 'untrained, seed 0' if self.weights == 'random' else None
        return file_digest(self.checkpoint)

    @cached_property
    def data_hash(self) -> str:
        """Of the test annotations and the names and sizes of the test files, so that remade data is noticed.

        Raises:
            FileNotFoundError: a file or folder of the test set does not exist.
        """
        check_data_root(self.cfg, ('test_dataloader',))
        return digest([_fingerprint(path) for path in _dataset_paths(self.cfg.test_dataloader.dataset)])

    def untrained(self) -> Entry:
        """The same model with seeded random weights: what chance gives."""
        cfg = copy.deepcopy(self.cfg)
        cfg.model = _rewrite(cfg.model.to_dict(), _without_pretrained)
        return replace(self, name=f'{self.name} (untrained)', cfg=cfg, checkpoint=None, weights='random')


def find_entries(targets: Sequence[str], cfg_options: dict[str, Any] | None = None) -> list[Entry]:
    """Resolve work_dirs, configs and ``config.py:checkpoint.pth`` pairs.

    Args:
        targets: a work_dir holds the config and ``last_checkpoint``; for a config alone ``work_dirs/<its stem>`` is
            looked up for a checkpoint, and without one it is not run. ``mmdet::swin/x.py`` is a config of the package.
        cfg_options: merged into every config.

    Raises:
        FileNotFoundError: a target, or the checkpoint of a work_dir or pair, does not exist.
        ValueError: a target is ambiguous, or cannot be compared.
    """
    entries = [_find_entry(target, cfg_options or {}) for target in targets]
    times = Counter(entry.name for entry in entries)
    return [replace(e, name=f'{e.name} ({_origin(e)})') if times[e.name] > 1 else e for e in entries]


def _origin(entry: Entry) -> str:
    file = entry.config_path if entry.checkpoint is None else entry.checkpoint
    return '/'.join(file.with_suffix('').parts[-2:])


def _find_entry(target: str, cfg_options: dict[str, Any]) -> Entry:
    config_path, checkpoint = _find_files(target)
    cfg = load_config(str(config_path), cfg_options)
    name = config_path.stem
    for section in ('test_dataloader', 'test_evaluator'):
        if not cfg.get(section):
            raise ValueError(f'{config_path} has no {section}, so it cannot be tested')
    if 'backbone' not in cfg.model:
        raise ValueError(f'{config_path} has no model.backbone')
    return Entry(name, cfg, config_path, checkpoint, task_of(cfg, name), 'checkpoint' if checkpoint else 'none')


def _find_files(target: str) -> tuple[Path, Path | None]:
    target = _installed(target)
    if '.py:' in target:
        config, checkpoint = target.split('.py:', 1)
        config_path = _existing_file(Path(f'{config}.py'), 'config')
        check_checkpoint_file(checkpoint)
        return config_path, _existing_file(Path(checkpoint).expanduser(), 'checkpoint')
    path = Path(target).expanduser()
    if path.is_dir():
        return _files_in(path)
    if path.suffix != '.py':
        raise FileNotFoundError(
            f'{target} is neither a work_dir, nor a config (*.py), nor a pair config.py:checkpoint.pth, nor a '
            'compare.json of this tool'
        )
    found = find_resume_checkpoint(work_dir_of(_existing_file(path, 'config')))
    return path, Path(found) if found else None


def _installed(target: str) -> str:
    """A target with the path of a config that a package brings, which mmengine writes as ``mmdet::swin/x.py``."""
    package, mark, config = target.partition('::')
    if not mark:
        return target
    spec = find_spec(package) if package in SUPPORTED_SCOPES else None
    if spec is None or not spec.origin:
        raise FileNotFoundError(f'{target}: before :: stands one of {", ".join(SUPPORTED_SCOPES)}, if it is installed')
    return str(Path(spec.origin).parent / '.mim' / 'configs' / config)


def work_dir_of(config_path: Path) -> Path:
    """Where tools/train.py leaves the checkpoints of a config unless told otherwise."""
    return Path('work_dirs') / config_path.stem


def _existing_file(path: Path, what: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f'{what} {path} does not exist')
    return path


def _files_in(work_dir: Path) -> tuple[Path, Path]:
    configs = sorted(work_dir.glob('*.py'))
    if len(configs) != 1:
        found = ', '.join(path.name for path in configs) or 'none'
        raise ValueError(f'work_dir {work_dir} should hold one config (*.py), but holds {found}')
    if (checkpoint := find_resume_checkpoint(work_dir)) is None:
        raise FileNotFoundError(f'there is no checkpoint in the work_dir {work_dir}; train it, or give its config')
    return configs[0], Path(checkpoint)


def _dataset_paths(dataset: dict[str, Any]) -> list[Path]:
    """The paths below a dataset's config, wrappers such as ConcatDataset included."""
    root = Path(dataset.get('data_root') or '')
    named = stated_paths(dataset)
    if dataset.get('split') and not dataset.get('ann_file'):
        named.append(f'meta/{dataset["split"]}.txt')  # where mmpretrain's ImageNet looks for labels by itself
    paths = [root / name for name in named]
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    return paths + [path for wrapped in inner for path in _dataset_paths(wrapped)]


def _fingerprint(path: Path) -> Any:
    if path.is_file():
        return file_digest(path)
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sorted((str(file.relative_to(path)), file.stat().st_size) for file in files)


def _rewrite(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy of a nested value with each dict as ``change`` gives it."""
    if isinstance(value, dict):
        return {key: _rewrite(v, change) for key, v in change(value).items()}
    return [_rewrite(v, change) for v in value] if isinstance(value, (list, tuple)) else value


def _without_init_cfg(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != 'init_cfg'}


def _without_pretrained(part: dict[str, Any]) -> dict[str, Any]:
    init = part.get('init_cfg')
    return part | {'init_cfg': None} if isinstance(init, dict) and init.get('type') == 'Pretrained' else part
