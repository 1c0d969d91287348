"""What a search leaves behind: its trace as a table, as JSON and as a plot, and the winner as a config."""

from __future__ import annotations

import json
import pprint
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from mmssmprune.checkpoints.writing import write_whole

from .search import Trial, winner

HEAD = ('step', 'plan', 'keep ratio', 'FLOPs saved (%)', 'images', 'accuracy (%)', 'drop', 'allowed')


def rows_of(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    """The trace as text, a row per trial under `HEAD`."""
    return [
        (
            str(i),
            trial.arm,
            '-' if trial.pruning is None else '/'.join(f'{ratio:g}' for ratio in trial.pruning['keep_ratio']),
            f'{100 * trial.saved:.1f}',
            str(trial.images),
            f'{trial.accuracy:.2f}',
            f'{trial.drop:.2f}',
            'yes' if trial.allowed else 'no',
        )
        for i, trial in enumerate(trials, 1)
    ]


def write_search(
    trials: Sequence[Trial], out: Path, config: Path, said: dict[str, Any], replaces: bool = False
) -> list[str]:
    """Write search.json, search.md, search.png and the winner's config; returns their names.

    Args:
        trials: all of them.
        out: folder.
        config: that was searched for, on which the winner's is based.
        said: metric, allowed drop, command and whatever else the table is to state.
        replaces: whether that config states a pruning, be it None, in whose place the winner's comes.
    """
    best = winner(trials)
    name = f'{config.stem}-searched.py'
    table = '\n'.join(f'| {" | ".join(row)} |' for row in (HEAD, ('---',) * len(HEAD), *rows_of(trials)))
    notes = '\n'.join(f'- {key}: {value}' for key, value in said.items())
    files = {
        'search.json': json.dumps({**said, 'trials': [trial.as_dict() for trial in trials]}, indent=1) + '\n',
        'search.md': f'# Search of {config.stem}\n\n{summary(trials, str(said["metric"]))}\n\n{table}\n\n{notes}\n',
        'search.png': plot(trials, str(said['metric']), float(said['max drop'])),
        name: config_text(config.resolve(), best, replaces),
    }
    for file, content in files.items():
        write_whole(out / file, content)
    return list(files)


def summary(trials: Sequence[Trial], metric: str) -> str:
    """One sentence."""
    best = winner(trials)
    if best.pruning is None:
        return f'No plan stays within the allowed drop of {metric}: the dense model is the cheapest.'
    return (
        f'{best.arm}, keep ratio {"/".join(f"{ratio:g}" for ratio in best.pruning["keep_ratio"])}, saves '
        f'{100 * best.saved:.1f} % of the backbone FLOPs and loses {best.drop:.2f} {metric} '
        f'({best.accuracy:.2f}, all {best.images} test images).'
    )


def config_text(base: Path, best: Trial, replaces: bool) -> str:
    """A config that trains and tests the winner; what the base states of pruning, if it does, is replaced."""
    instead = {'_delete_': True} if replaces else {}
    pruning = None if best.pruning is None else {**instead, **best.pruning}
    text = f'_base_ = {str(base)!r}\nmodel = dict(backbone=dict(pruning={pprint.pformat(pruning, sort_dicts=False)}))\n'
    return text


def plot(trials: Sequence[Trial], metric: str, max_drop: float) -> bytes:
    """The trace over what is saved: small marks on the part of the test set, large ones on all of it; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout='constrained')
    axes = figure.add_subplot()
    images = max(trial.images for trial in trials)
    for number, arm in enumerate(dict.fromkeys(trial.arm for trial in trials)):
        points = sorted((t for t in trials if t.arm == arm), key=lambda t: t.saved)
        size = [70 if t.images == images else 20 for t in points]
        shape = 'osD^'[number // 10 % 4]  # ten colours, then once more with another shape
        values = [100 * t.saved for t in points], [t.drop for t in points]
        axes.scatter(*values, s=size, marker=shape, label=arm, zorder=2)
    best = winner(trials)
    ring = {'s': 220, 'facecolors': 'none', 'edgecolors': 'black'}
    axes.scatter([100 * best.saved], [best.drop], **ring, label='winner', zorder=3)
    axes.axhline(max_drop, color='grey', linestyle='--', linewidth=1, label='allowed')
    axes.invert_yaxis()
    axes.set_xlabel('backbone FLOPs saved (%)')
    axes.set_ylabel(f'{metric} lost (points)')
    figure.legend(fontsize='small', loc='outside right upper')
    file = BytesIO()
    figure.savefig(file, format='png', dpi=120)
    return file.getvalue()
