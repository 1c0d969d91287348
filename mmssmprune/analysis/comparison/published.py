"""What papers and official repositories report for our configs, each number with its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mmssmprune.analysis.json_check import NAME, NUMBER, TEXT, check

from .report import Published

FILE = Path(__file__).with_name('published.yml')
_SOURCE = dict.fromkeys(('title', 'kind', 'url'), TEXT)
_ENTRY = dict.fromkeys(('family', 'task', 'config'), NAME)
_ENTRY |= {'source': NAME, 'percent': {'*': NUMBER}, 'recipe?': TEXT, 'reduction?': NAME, 'flops_reduction?': NUMBER}
_CONTENT = {'sources': {'*': _SOURCE}, 'entries': [_ENTRY]}
# How near a config's pruning.flops_reduction has to be to that of a published operating point.
_SAME_REDUCTION = 0.005


@cache
def read_published(path: Path = FILE) -> tuple[dict[str, Any], ...]:
    """The entries of the file, each with its ``citation`` in place of the source's key.

    Raises:
        ValueError: the file is damaged, or an entry has no known source, or no numbers.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path.name} is no YAML file: {error}') from error
    if wrong := check(content, _CONTENT):
        raise ValueError(f'{path.name} is damaged: {wrong}')
    entries = []
    for entry in content['entries']:
        source = content['sources'].get(entry['source'])
        if source is None or not entry['percent']:
            raise ValueError(f'{path.name}: the entry {entry} needs percent, and a source that sources lists')
        entries.append({**entry, 'citation': f'{source["title"]} ({source["kind"]}), {source["url"]}'})
    return tuple(entries)


def find_published(
    config: str,
    family: str,
    task: str,
    metrics: Sequence[str],
    pruning: Mapping[str, Any] | None,
    path: Path = FILE,
) -> Published | None:
    """What was published for a config.

    Args:
        config: its file name without suffix.
        family: backbone and size, such as ``PlainMamba-L1``.
        task: name of the task.
        metrics: the titles that are wanted.
        pruning: the config's pruning dict; a pruned config has only numbers of the same reduction and FLOPs.

    Raises:
        ValueError: several entries of the file fit.
    """
    found = [
        entry
        for entry in read_published(path)
        if (entry['family'], entry['task']) == (family, task)
        and fnmatch(config, entry['config'])
        and _same_operating_point(entry, pruning)
    ]
    if len(found) > 1:
        raise ValueError(f'{path.name} has {len(found)} entries for {config}; keep the one that is nearest to it')
    for entry in found:
        if percent := {title: float(entry['percent'][title]) for title in metrics if title in entry['percent']}:
            return Published(percent, entry['citation'], bool(entry.get('quoted')), entry.get('recipe', ''))
    return None


def _same_operating_point(entry: Mapping[str, Any], pruning: Mapping[str, Any] | None) -> bool:
    published = entry.get('flops_reduction')
    if pruning is None or published is None:
        return pruning is None and published is None
    ours = pruning.get('flops_reduction')
    same_method = entry.get('reduction', 'prune') == pruning.get('reduction', 'prune')
    return same_method and ours is not None and abs(ours - published) <= _SAME_REDUCTION
