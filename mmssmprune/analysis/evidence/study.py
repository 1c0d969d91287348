"""What this project ran: the settings, the recipe that every ablation varies in one place, the studies by priority."""

from __future__ import annotations

from typing import Any

from mmssmprune.analysis.evidence.plan import Study, StudyRow, StudySetting

ABOUT = 'Measured by this project, on the small data sets that it makes itself (`make data`):'
COMMAND = 'make data && python tools/evidence.py'
LIMITS = """\
These are models of eight layers and 256 tokens, trained for minutes on a processor: they show how the choices compare
with each other here, not what they are worth on COCO or ADE20K."""
PAGE_TITLES = dict(levels='Dense against pruned', ablations='Ablations', elastic='One checkpoint for all levels')

# What a row is unless it says otherwise; how much it prunes is the setting's.
RECIPE = dict(layers=[1, 3, 5], reduction='prune', importance='clip', alignment='carry', conv_fill='zero')
RECIPE |= dict(scan_fill='zero', restoration='follow', regime='progressive')
# What the levels and the elastic model are made with.
BEST: dict[str, Any] = RECIPE | dict(layers=[1], importance='l1')
# What needs no help before fine-tuning needs no help after it.
HOLD = dict(restoration='hold')
LEVELS = {'-10 %': 0.1, '-20 %': 0.2, '-30 %': 0.3, '-40 %': 0.4}
# Lets every training step draw its own ratio; the levels lie between 1.0 and about 0.4.
ELASTIC_HOOK = dict(type='ElasticKeepRatioHook', keep_ratios=[1.0, 0.85, 0.7, 0.55, 0.4])
# Its teacher is the checkpoint that the fine-tuning starts from.
DISTILLATION = dict(type='DistillationHook', loss_weight=1.0)

MINI_ADE, MINI_COCO = 'upernet_1xb8-450i_mini-ade-128x128.py', 'mask-rcnn_1xb8-300i_mini-coco-128x128.py'
FAR = dict(far_classes=('four_red', 'four_blue'))
SETTINGS = [
    StudySetting('vim-seg', 'Vim, segmentation', f'configs/vim/vim-mini_{MINI_ADE}', 'seg', 1200, 100, **FAR),
    StudySetting(
        'plain_mamba-seg',
        'PlainMamba, segmentation',
        f'configs/plain_mamba/plain-mamba-mini_{MINI_ADE}',
        'seg',
        1200,
        100,
        flops_reduction=0.3,  # its stem and convolutions cost the same whatever is pruned: not every row can save more
        **FAR,
    ),
    StudySetting('vim-det', 'Vim, detection', f'configs/vim/vim-mini_{MINI_COCO}', 'det', 600, 100, **FAR),
]
# Where every choice is tried; the others see what matters most.
SEGMENTATION = ('vim-seg', 'plain_mamba-seg')


def vary(key: str, values: str) -> dict[str, dict[str, Any]]:
    """A row for each value of one key of the recipe."""
    return {value: RECIPE | {key: value} for value in values.split()}


def at_level(share: float) -> dict[str, Any]:
    """The best recipe at a share of FLOPs saved."""
    return BEST | dict(flops_reduction=share, input_shape=(128, 128))


def longer(pruning: dict | None, iters: int, lr_scale: float, against: str | None = None, **cfg: Any) -> StudyRow:
    """A row whose fine-tuning may move the weights further than the setting's."""
    return StudyRow(pruning, ('tuned',), against, cfg, iters, lr_scale)


def elastic(against: str, test: int) -> StudyRow:
    """The elastic model at one of the levels."""
    tests, hooks = tuple(dict(flops_reduction=share) for share in LEVELS.values()), dict(custom_hooks=[ELASTIC_HOOK])
    return StudyRow(BEST, ('tuned',), against, hooks, tests=tests, test=test, group='one elastic checkpoint')


ELASTIC_ROWS = {}
for number, (level, share) in enumerate(LEVELS.items()):
    ELASTIC_ROWS[f'{level}, separate'] = StudyRow(at_level(share), group='a checkpoint for each level')
    ELASTIC_ROWS[f'{level}, elastic'] = elastic(f'{level}, separate', number)

STUDIES = [
    Study(
        'alignment',
        'Alignment of the hidden state',
        'How much time passes at a pruned cell; `none` is plain compaction.',
        vary('alignment', 'none carry bias'),
        reference='none',
        settings=SEGMENTATION,
    ),
    Study(
        'where',
        'Where tokens are pruned',
        'The same FLOPs with other layers: the earlier the pruning, the more tokens each of its steps may keep.',
        {
            'once (1)': RECIPE | dict(layers=[1]),
            'early (0, 1, 2)': RECIPE | dict(layers=[0, 1, 2]),
            'middle (2, 3, 4)': RECIPE | dict(layers=[2, 3, 4]),
            'late (3, 4, 5)': RECIPE | dict(layers=[3, 4, 5]),
            'spread (1, 3, 5)': RECIPE,
        },
        reference='spread (1, 3, 5)',
        settings=SEGMENTATION,
    ),
    Study(
        'importance',
        'Importance of a token',
        'What decides which tokens are pruned; `random` is what any score has to beat.',
        vary('importance', 'clip sum l1 l2 delta random grid'),
        reference='clip',
        settings=SEGMENTATION,
    ),
    Study(
        'reduction',
        'How tokens become fewer',
        'Tokens are dropped, merged with similar ones, or fused into one.',
        vary('reduction', 'prune merge evit'),
        reference='prune',
    ),
    Study(
        'restoration',
        'What a pruned cell shows to the dense head',
        'Without fine-tuning `mask_token` shows an untrained vector.',
        vary('restoration', 'hold drift follow nearest interpolate mask_token zero'),
        reference='hold',
        settings=SEGMENTATION,
    ),
    Study(
        'regime',
        'Whether pruned tokens come back',
        '`per_stage` makes all cells candidates again after every output of the backbone.',
        vary('regime', 'progressive per_stage'),
        reference='progressive',
        settings=SEGMENTATION,
    ),
    Study(
        'beyond',
        "Beyond the paper's recipe",
        "The paper's recipe (several pruning layers, `clip`, held cells) and what was found better, at equal FLOPs.",
        {"the paper's": RECIPE | HOLD, 'once, l1, hold': BEST | HOLD, 'once, l1, follow': BEST},
        reference="the paper's",
        page='levels',
    ),
    Study(
        'levels',
        'Dense against pruned',
        'The dense model and the best recipe at four FLOPs levels. The dense model of the phase "tuned" was fine-tuned '
        'just as long.',
        {'dense': None} | {level: at_level(share) for level, share in LEVELS.items()},
        reference='dense',
        page='levels',
        figure='curves',
    ),
    Study(
        'elastic',
        'One elastic checkpoint against separate ones',
        'One model, fine-tuned once while every step drew its own keep ratio, is tested at all levels. Each level is '
        'compared with the model that was fine-tuned for that level alone, just as long.',
        ELASTIC_ROWS,
        page='elastic',
        settings=SEGMENTATION,
        figure='curves',
    ),
    Study(
        'recovery',
        'How much fine-tuning it takes',
        'The best recipe, fine-tuned for 300 iterations at half the dense learning rate (with and without distillation '
        'from the dense model it started from), and for 1200 at the whole of it. Each is compared with the dense model '
        'after the same schedule.',
        {
            'dense, 300': longer(None, 300, 0.5),
            'pruned, 300': longer(BEST, 300, 0.5, 'dense, 300'),
            'distilled, 300': longer(BEST, 300, 0.5, 'dense, 300', custom_hooks=[DISTILLATION]),
            'hold, 300': longer(BEST | HOLD, 300, 0.5, 'dense, 300'),
            'dense, 1200': longer(None, 1200, 1.0),
            'hold, 1200': longer(BEST | HOLD, 1200, 1.0, 'dense, 1200'),
        },
        page='levels',
    ),
]
