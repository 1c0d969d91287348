"""What is run: the settings, the recipe that every ablation varies in one place, and the studies by priority."""

from __future__ import annotations

from typing import Any

from .plan import Line, Study, StudyRow, StudySetting

SHAPE = (128, 128)

# What a row is unless it says otherwise; how much it prunes is the setting's.
RECIPE = dict(
    layers=[1, 3, 5],
    reduction='prune',
    importance='clip',
    alignment='carry',
    conv_fill='zero',
    restoration='follow',
    regime='progressive',
)
# What the levels and the elastic model are made with, as changes of the recipe.
BEST: dict[str, Any] = dict(layers=[1], importance='l1')
# What needs no help before fine-tuning needs no help after it.
HOLD = dict(restoration='hold')
LEVELS = (0.1, 0.2, 0.3, 0.4)
# Lets every training step draw its own ratio; the levels lie between 1.0 and about 0.4.
ELASTIC_HOOK = dict(type='ElasticKeepRatioHook', keep_ratios=[1.0, 0.85, 0.7, 0.55, 0.4])

# Its teacher is the checkpoint that the fine-tuning starts from.
DISTILLATION = dict(type='DistillationHook', loss_weight=1.0)

SETTINGS = [
    StudySetting(
        name='vim-seg',
        title='Vim, segmentation',
        config='configs/vim/vim-mini_upernet_1xb8-450i_mini-ade-128x128.py',
        task='seg',
        dense_iters=1200,
        tune_iters=100,
        shape=SHAPE,
    ),
    StudySetting(
        name='plain_mamba-seg',
        title='PlainMamba, segmentation',
        config='configs/plain_mamba/plain-mamba-mini_upernet_1xb8-450i_mini-ade-128x128.py',
        task='seg',
        dense_iters=1200,
        tune_iters=100,
        shape=SHAPE,
        # Its stem and convolutions cost the same whatever is pruned: not every row can save more.
        flops_reduction=0.3,
    ),
    StudySetting(
        name='vim-det',
        title='Vim, detection',
        config='configs/vim/vim-mini_mask-rcnn_1xb8-300i_mini-coco-128x128.py',
        task='det',
        dense_iters=600,
        tune_iters=100,
        shape=SHAPE,
    ),
]

# Where every choice is tried; the others see what matters most.
SEGMENTATION = ('vim-seg', 'plain_mamba-seg')


def pruned(**changes: Any) -> StudyRow:
    """The recipe with changes."""
    return StudyRow(RECIPE | changes)


def best(**changes: Any) -> StudyRow:
    """The best recipe with changes."""
    return StudyRow(RECIPE | BEST | changes)


def longer(pruning: dict[str, Any] | None, iters: int, lr_scale: float, **cfg: Any) -> StudyRow:
    """A row whose fine-tuning may move the weights further than the setting's."""
    return StudyRow(pruning, cfg=cfg, phases=('tuned',), tune_iters=iters, lr_scale=lr_scale)


def percent(share: float) -> str:
    """0.4 -> '-40 %'."""
    return f'-{share:.0%}'.replace('%', ' %')


def vary(
    name: str,
    title: str,
    text: str,
    rows: dict[str, StudyRow],
    reference: str,
    page: str = 'ablations',
    figure: str = 'dots',
    settings: tuple[str, ...] | None = SEGMENTATION,
) -> Study:
    """A study of labelled rows that are all compared with one of them."""
    lines = tuple(Line(label, row, against=None if label == reference else reference) for label, row in rows.items())
    return Study(name, title, page, text, lines, settings, figure)


def vary_key(
    key: str,
    values: tuple[str, ...],
    title: str,
    text: str,
    reference: str,
    settings: tuple[str, ...] | None = SEGMENTATION,
) -> Study:
    """A study of the values of one key of the recipe."""
    rows = {value: pruned(**{key: value}) for value in values}
    return vary(key, title, text, rows, reference, settings=settings)


DENSE = StudyRow(None)

LEVELS_STUDY = vary(
    'levels',
    'Dense against pruned',
    'The dense model and the best recipe at four FLOPs levels. The dense model of the phase "tuned" was fine-tuned '
    'just as long.',
    {'dense': DENSE} | {percent(level): best(flops_reduction=level, input_shape=SHAPE) for level in LEVELS},
    reference='dense',
    page='levels',
    figure='curves',
    settings=None,
)

ELASTIC = StudyRow(
    RECIPE | BEST,
    cfg=dict(custom_hooks=[ELASTIC_HOOK]),
    tests=tuple(dict(flops_reduction=level) for level in LEVELS),
    phases=('tuned',),
)


def elastic_lines() -> tuple[Line, ...]:
    """Per level the model tuned for it and, compared with it, the elastic one."""
    lines = []
    for i, level in enumerate(LEVELS):
        separate = f'{percent(level)}, separate'
        lines.append(
            Line(separate, best(flops_reduction=level, input_shape=SHAPE), group='a checkpoint for each level')
        )
        lines.append(Line(f'{percent(level)}, elastic', ELASTIC, i, separate, group='one elastic checkpoint'))
    return tuple(lines)


# By priority: an earlier study is finished, with all seeds, before the next one begins.
STUDIES = [
    vary_key(
        'alignment',
        ('none', 'carry', 'bias', 'calibrated', 'learned'),
        'Alignment of the hidden state',
        'How much time passes at a pruned cell; `none` is plain compaction.',
        reference='none',
    ),
    vary_key(
        'conv_fill',
        ('zero', 'hold'),
        'What a convolution sees at pruned cells',
        '`hold` computes its features there and pays for them, so it keeps fewer tokens at the same FLOPs.',
        reference='zero',
    ),
    vary(
        'where',
        'Where tokens are pruned',
        'The same FLOPs with other layers: the earlier the pruning, the more tokens each of its steps may keep.',
        {
            'once (1)': pruned(layers=[1]),
            'early (0, 1, 2)': pruned(layers=[0, 1, 2]),
            'middle (2, 3, 4)': pruned(layers=[2, 3, 4]),
            'late (3, 4, 5)': pruned(layers=[3, 4, 5]),
            'spread (1, 3, 5)': pruned(),
        },
        reference='spread (1, 3, 5)',
    ),
    vary_key(
        'importance',
        ('clip', 'sum', 'l1', 'l2', 'delta', 'random', 'grid'),
        'Importance of a token',
        'What decides which tokens are pruned; `random` is what any score has to beat.',
        reference='clip',
    ),
    vary_key(
        'reduction',
        ('prune', 'merge', 'evit'),
        'How tokens become fewer',
        'Tokens are dropped, merged with similar ones, or fused into one.',
        reference='prune',
        settings=None,
    ),
    vary_key(
        'restoration',
        ('hold', 'drift', 'follow', 'nearest', 'interpolate', 'mask_token', 'zero'),
        'What a pruned cell shows to the dense head',
        'Without fine-tuning `mask_token` shows an untrained vector.',
        reference='hold',
    ),
    vary_key(
        'regime',
        ('progressive', 'per_stage'),
        'Whether pruned tokens come back',
        '`per_stage` makes all cells candidates again after every output of the backbone.',
        reference='progressive',
    ),
    vary(
        'beyond',
        "Beyond the paper's recipe",
        "The paper's recipe (several pruning layers, `clip`, held cells) and what was found better, at equal FLOPs.",
        {
            "the paper's": pruned(**HOLD),
            'once, l1, hold': best(**HOLD),
            'once, l1, follow': best(),
        },
        reference="the paper's",
        page='levels',
        settings=None,
    ),
    LEVELS_STUDY,
    Study(
        'elastic',
        'One elastic checkpoint against separate ones',
        'elastic',
        'One model, fine-tuned once while every step drew its own keep ratio, is tested at all levels. Each level is '
        'compared with the model that was fine-tuned for that level alone, just as long.',
        elastic_lines(),
        settings=SEGMENTATION,
        figure='curves',
    ),
    Study(
        'recovery',
        'How much fine-tuning it takes',
        'levels',
        'The best recipe, fine-tuned for 300 iterations at half the dense learning rate (with and without distillation '
        'from the dense model it started from), and for 1200 at the whole of it. Each is compared with the dense model '
        'after the same schedule.',
        (
            Line('dense, 300', longer(None, 300, 0.5)),
            Line('pruned, 300', longer(RECIPE | BEST, 300, 0.5), against='dense, 300'),
            Line('distilled, 300', longer(RECIPE | BEST, 300, 0.5, custom_hooks=[DISTILLATION]), against='dense, 300'),
            Line('hold, 300', longer(RECIPE | BEST | HOLD, 300, 0.5), against='dense, 300'),
            Line('dense, 1200', longer(None, 1200, 1.0)),
            Line('hold, 1200', longer(RECIPE | BEST | HOLD, 1200, 1.0), against='dense, 1200'),
        ),
    ),
]
