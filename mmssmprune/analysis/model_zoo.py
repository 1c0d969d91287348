"""The configs of a family as its README.md and metafile.yml list them: sizes and FLOPs counted, accuracy quoted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from mmssmprune.analysis.comparison.entries import Entry
from mmssmprune.analysis.comparison.published import find_published
from mmssmprune.analysis.cost.model_cost import model_cost, usual_shape

BEGIN = '<!-- tables: written by tools/analysis_tools/update_model_zoo.py -->'
END = '<!-- end of tables -->'
CONVENTION = 'field'
NOT_RUN = 'not run'

_TASKS = {
    'detection': ('Object Detection', 'COCO'),
    'segmentation': ('Semantic Segmentation', 'ADE20K'),
    'classification': ('Image Classification', 'ImageNet-1k'),
}
_PAPERS = {
    'plain_mamba': ('PlainMamba', 'PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition', '2403.17695'),
    'vim': (
        'Vim',
        'Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model',
        '2401.09417',
    ),
    'vmamba': ('VMamba', 'VMamba: Visual State Space Model', '2401.10166'),
}


@dataclass(frozen=True)
class ZooEntry:
    """One config with what it costs at ``shape`` (H, W) in pixels, in FLOPs by the convention `CONVENTION`.

    ``published`` has the metrics of the task by title, in percent, and is empty where nobody reports any.
    """

    name: str
    family: str
    task: str
    metrics: tuple[str, ...]
    shape: tuple[int, int]
    params: int
    backbone_flops: int
    dense_backbone_flops: int
    total_flops: int
    layers: tuple[int, ...]
    keep_ratios: tuple[float, ...]
    published: dict[str, float]
    quoted: bool

    @property
    def heading(self) -> str:
        """Of the table that lists it: data, head and schedule as the file name says them."""
        _, head, schedule, data = self.name.split('_', 3) if self.name.count('_') > 2 else self._without_head()
        return ', '.join(part for part in (data, head, schedule) if part)

    def _without_head(self) -> tuple[str, str, str, str]:
        model, schedule, data = self.name.split('_')
        return model, '', schedule, data


def zoo_configs(family: Path) -> list[Path]:
    """The configs of a family but for those on small data, each dense one before its pruned ones."""
    found = (path for path in family.glob('*.py') if '-mini' not in path.stem)
    return sorted(found, key=lambda path: path.stem.replace('_', ' '))


def zoo_entry(entry: Entry, model: nn.Module) -> ZooEntry:
    """Count a config.

    Args:
        entry: the config as `find_entries` reads it.
        model: built from it, by `build_without_weights` or otherwise; its weights do not matter.
    """
    shape = usual_shape(entry.cfg)
    cost = model_cost(model, shape, [CONVENTION])
    flops = cost['flops'][CONVENTION]
    metrics = tuple(metric.title for metric in entry.task.metrics)
    published = find_published(entry.name, entry.family, entry.task.name, metrics, entry.pruning)
    return ZooEntry(
        name=entry.name,
        family=entry.config_path.parent.name,
        task=entry.task.name,
        metrics=metrics,
        shape=shape,
        params=cost['params']['total'],
        backbone_flops=flops['backbone'],
        dense_backbone_flops=cost.get('dense_flops', cost['flops'])[CONVENTION]['backbone'],
        total_flops=flops['total'],
        layers=tuple(cost['plan']['layers']) if 'plan' in cost else (),
        keep_ratios=tuple(cost['plan']['keep_ratios']) if 'plan' in cost else (),
        published=dict(published.percent) if published else {},
        quoted=bool(published and published.quoted),
    )


def readme_row(entry: ZooEntry) -> str:
    """The line of a README's table."""
    change = 100 * (entry.backbone_flops / entry.dense_backbone_flops - 1)
    numbers = [
        f'{entry.params / 1e6:.2f}',
        f'{entry.backbone_flops / 1e9:.2f}',
        f'{change:+.1f}' if entry.keep_ratios else '-',
        f'{entry.total_flops / 1e9:.2f}',
        _plan(entry) or '-',
        _published(entry),
        NOT_RUN,
    ]
    return f'| [{entry.name}]({entry.name}.py) | {" | ".join(numbers)} |'


def _plan(entry: ZooEntry) -> str:
    """0.7 after 5, 11, 17; or each ratio with its layer where they differ."""
    if len(set(entry.keep_ratios)) == 1:
        return f'{entry.keep_ratios[0]:g} after {", ".join(map(str, entry.layers))}'
    return ', '.join(f'{ratio:g} after {layer}' for ratio, layer in zip(entry.keep_ratios, entry.layers, strict=True))


def _published(entry: ZooEntry) -> str:
    if not entry.published:
        return '-'
    numbers = (entry.published.get(title) for title in entry.metrics)
    text = ' / '.join('-' if number is None else f'{number:.1f}' for number in numbers)
    return f'{text} (quoted)' if entry.quoted else text


def readme_tables(entries: Sequence[ZooEntry]) -> str:
    """All tables of a family's README, with the marks around them."""
    headings = dict.fromkeys((entry.task, entry.heading) for entry in entries)
    parts = [BEGIN]
    for task, heading in headings:
        own = [entry for entry in entries if (entry.task, entry.heading) == (task, heading)]
        parts += ['', f'### {heading}', '', *_table(own)]
    return '\n'.join([*parts, '', END])


def _table(entries: Sequence[ZooEntry]) -> list[str]:
    first = entries[0]
    metrics = ' / '.join(first.metrics)
    titles = ['params (M)', 'backbone FLOPs (G)', 'Δ (%)', 'model FLOPs (G)', 'kept']
    titles += [f'{metrics}, published', f'{metrics}, ours']
    lines = [f'| config, at {first.shape[0]} x {first.shape[1]} | {" | ".join(titles)} |']
    lines.append(f'| --- |{" ---: |" * len(titles)}')
    return lines + [readme_row(entry) for entry in entries]


def put_tables_into(readme: str, tables: str) -> str:
    """The README with its tables replaced.

    Raises:
        ValueError: the marks are missing.
    """
    pattern = re.compile(re.escape(BEGIN) + '.*?' + re.escape(END), re.DOTALL)
    if len(pattern.findall(readme)) != 1:
        raise ValueError(f'the README needs one place for its tables, from {BEGIN} to {END}')
    return pattern.sub(lambda _: tables, readme)


def metafile(family: str, entries: Sequence[ZooEntry]) -> str:
    """The family's metafile.yml in OpenMMLab's format."""
    name, title, number = _PAPERS[family]
    collection = {
        'Name': name,
        'Metadata': {'Architecture': ['Selective state space model', 'Token pruning']},
        'Paper': {'Title': title, 'URL': f'https://arxiv.org/abs/{number}'},
        'README': f'configs/{family}/README.md',
    }
    content = {'Collections': [collection], 'Models': [metafile_model(entry) for entry in entries]}
    head = (
        '# Written by tools/analysis_tools/update_model_zoo.py. FLOPs: one image, multiply-adds and 9*L*D*N per scan.\n'
    )
    return head + yaml.safe_dump(content, sort_keys=False, width=120)


def metafile_model(entry: ZooEntry) -> dict[str, Any]:
    """A model of a metafile. It has no metrics, because we have not run it."""
    task, dataset = _TASKS[entry.task]
    plan = {'Pruned After Layers': list(entry.layers), 'Keep Ratios': list(entry.keep_ratios)} if entry.layers else {}
    return {
        'Name': entry.name,
        'In Collection': _PAPERS[entry.family][0],
        'Config': f'configs/{entry.family}/{entry.name}.py',
        'Metadata': {
            'FLOPs': entry.total_flops,
            'Backbone FLOPs': entry.backbone_flops,
            'Parameters': entry.params,
            'Input Size': list(entry.shape),
            **plan,
        },
        'Results': [{'Task': task, 'Dataset': dataset, 'Metrics': None}],
    }


def model_index(families: Sequence[str]) -> str:
    """The repository's model-index.yml."""
    return yaml.safe_dump({'Import': [f'configs/{family}/metafile.yml' for family in sorted(families)]})
