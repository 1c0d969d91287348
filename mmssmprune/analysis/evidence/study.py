"""What this project runs, on photographs: CamVid, then nuclei and blood cells; `docs/data.md` says how to get them.

The first study alone, without fine-tuning and with one seed of Vim, is `make real`: about an hour on one core.
"""

from __future__ import annotations

from typing import Any

from mmssmprune.analysis.evidence.plan import Study, StudyRow, StudySetting

ABOUT = 'Measured by this project on photographs that [anybody can download](../data.md):'
COMMAND = 'python tools/evidence.py'
LIMITS = """\
These are models of twelve layers, trained from scratch for half an hour on a processor: on photographs, but far from
the size and the accuracy of published models."""
PAGE_TITLES = dict(levels='Recipes', ablations='Ablations', elastic='One checkpoint for all levels')

LARGE: dict[str, Any] = dict(shape=(240, 320))
CAMVID = 'upernet_1xb8-1200i_camvid-192x256.py'
SMALL = dict(small_classes=('pole', 'sign symbol', 'pedestrian', 'bicyclist'))
SETTINGS = [
    StudySetting('vim-camvid', 'Vim, CamVid', f'configs/vim/vim-mini12_{CAMVID}', 'seg', 1200, 150, **LARGE, **SMALL),
    StudySetting(
        'vmamba-camvid',
        'VMamba, CamVid',
        'configs/vmamba/vmamba-mini12_upernet_1xb8-1200i_camvid-288x384.py',
        'seg',
        1200,
        150,
        shape=(360, 480),
        flops_reduction=0.3,  # its first two stages, which stay dense, are too much of it for more
        **SMALL,
    ),
    StudySetting(
        'plain_mamba-camvid',
        'PlainMamba, CamVid',
        f'configs/plain_mamba/plain-mamba-mini12_{CAMVID}',
        'seg',
        1200,
        150,
        **LARGE,
        **SMALL,
    ),
    StudySetting(
        'vim-nuclei',
        'Vim, nuclei',
        'configs/vim/vim-mini12_mask-rcnn_1xb4-1500i_nuclei.py',
        'det',
        1500,
        200,
        shape=(256, 256),
        test_batch=1,  # a batch of images of several sizes is padded to the largest
    ),
    StudySetting(
        'vim-bccd',
        'Vim, blood cells',
        'configs/vim/vim-mini12_faster-rcnn_1xb4-1500i_bccd-240x320.py',
        'box',
        1500,
        200,
        **LARGE,
    ),
]
ON_CAMVID = ('vim-camvid', 'vmamba-camvid', 'plain_mamba-camvid')
WITH_A_SEQUENCE, OF_ONE_STAGE = ('vim-camvid', 'vim-nuclei'), ('vim-camvid', 'plain_mamba-camvid')

# The paper's choices, pruned once, where a target prunes by default, and restored by `follow`.
NO_FILLS = dict(conv_fill='zero', scan_fill='zero')
ONCE: dict[str, Any] = dict(reduction='prune', importance='clip', alignment='carry', **NO_FILLS)
ONCE |= dict(restoration='follow', layers='default')
PAPER = ONCE | dict(layers=[2, 5, 8], restoration='hold')
NAIVE = dict(alignment='none', conv_fill='compact')
# The tokens that remain stand for the others: in their features, in convolutions, and before the head. What scans take
# in for these is left to the backbone, as it is by default.
OURS: dict[str, Any] = dict(reduction='merge_neighbours', alignment='carry', conv_fill='leader', restoration='flow')
OURS |= dict(layers='default')
FOLDED = OURS | dict(reduction='prune_merge', importance='grid')  # where an importance decides
LEVELS = {f'-{share} %': share / 100 for share in (20, 30, 40, 50)}
FAR = {f'-{share} %': share / 100 for share in (10, 20, 30, 40, 50, 60)}
# Units of cells make the gaps long, and a small keep ratio does too.
GAPS = {'keep 0.7': dict(keep_ratio=0.7), 'keep 0.3': dict(keep_ratio=0.3)}
GAPS |= {f'{name}, 4x4 cells': dict(ratio, unit=(4, 4)) for name, ratio in GAPS.items()}
LAYER_WISE = {'optim_wrapper.constructor': 'LayerDecayOptimWrapperConstructor'}
LAYER_WISE |= {'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.8}
# Every training step draws its own ratio; the levels lie between 0.8 and about 0.4.
ELASTIC = dict(custom_hooks=[dict(type='ElasticKeepRatioHook', keep_ratios=[1.0, 0.85, 0.7, 0.55, 0.4])])
# R-MeeTo: r tokens after every layer, by the features before the mixer.
EVERY_LAYER = dict(start=0, every=1, equal_steps=True, reduction='merge_features')


def vary(key: str, values: str, base: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """A row for each value of one key."""
    return {prefix + value: base | {key: value} for value in values.split()}


def trained(pruning: dict[str, Any] | None, against: str | None = None, iters: int | None = None, **cfg) -> StudyRow:
    """A row that means nothing without fine-tuning; ``cfg`` are changes of its config."""
    return StudyRow(pruning, ('tuned',), against, cfg, iters)


def elastic(level: str, number: int) -> dict[str, StudyRow]:
    """One of the levels: fine-tuned for it alone, and the model that was fine-tuned for all of them."""
    tests = tuple(dict(flops_reduction=share) for share in LEVELS.values())
    alone = f'{level}, separate'
    shared = StudyRow(OURS, ('tuned',), alone, ELASTIC, tests=tests, test=number, group='one elastic checkpoint')
    return {
        alone: StudyRow(OURS | dict(flops_reduction=LEVELS[level]), ('tuned',), group='a checkpoint for each level'),
        f'{level}, elastic': shared,
    }


def by_gap(base: dict[str, Any], names: str, prefix: str = '') -> dict[str, StudyRow]:
    """The alignments of these names at every gap, each against plain compaction."""
    return {
        f'{prefix}{name}, {gap}': StudyRow(
            base | how | dict(alignment=name), against=None if name == 'none' else f'{prefix}none, {gap}'
        )
        for gap, how in GAPS.items()
        for name in names.split()
    }


STUDIES = [
    Study(
        'recipes',
        'Recipes',
        "The dense model, the paper's recipe, ours, and others at equal FLOPs of the backbone.",
        {
            'dense': None,
            "the paper's": PAPER,
            'once, clip, follow': ONCE,
            'merge': ONCE | dict(reduction='merge'),
            'evit': ONCE | dict(reduction='evit'),
            'ours': OURS,
            'ours, prune_merge, grid': FOLDED,
        },
        reference='dense',
        page='levels',
    ),
    Study(
        'released',
        'The paper against the naive way',
        "The paper's released code (compacted sequence, no alignment, its own score), naive compaction with the "
        "paper's score, positions for the convolution alone, and the alignment on top; where the paper prunes.",
        {
            'released': PAPER | NAIVE | dict(importance='released'),
            'compact': PAPER | NAIVE,
            'none': PAPER | dict(alignment='none'),
            'carry': PAPER,
        },
        reference='compact',
        settings=WITH_A_SEQUENCE,
    ),
    Study(
        'standing_in',
        'What the tokens that remain stand for',
        'Our recipe without one of its parts, and the same for tokens that are dropped in an even pattern.',
        {
            'ours': OURS,
            'no conv_fill': OURS | dict(conv_fill='zero'),
            **vary('scan_fill', 'zero leader neighbours', OURS, 'scan_fill '),
            'neither': OURS | NO_FILLS,
            'no alignment': OURS | dict(alignment='none'),
            'none of the three': OURS | NO_FILLS | dict(alignment='none'),
            'prune': FOLDED | dict(reduction='prune'),
            'prune, no fills': ONCE | dict(importance='grid'),
            'prune, nothing': ONCE | dict(importance='grid', alignment='none'),
            'prune, cells held': FOLDED | dict(reduction='prune', restoration='hold'),
        },
        reference='ours',
        settings=ON_CAMVID,
    ),
    Study(
        'levels',
        'Accuracy against FLOPs',
        "The dense model, the paper's recipe, its released code, merging as published, and our recipe.",
        {'dense': StudyRow(None, group='dense')}
        | {
            f'{name}, {level}': StudyRow(recipe | dict(flops_reduction=share), group=name)
            for name, recipe in {
                'ours': OURS,
                "the paper's": PAPER,
                'released code': PAPER | NAIVE | dict(importance='released'),
                'merge': ONCE | dict(reduction='merge'),
            }.items()
            for level, share in LEVELS.items()
        },
        reference='dense',
        page='levels',
        settings=WITH_A_SEQUENCE,
        figure='curves',
    ),
    Study(
        'further',
        'How far our recipe goes',
        'The dense model, fine-tuned just as long, and our recipe.',
        {'dense': None} | {level: OURS | dict(flops_reduction=share) for level, share in FAR.items()},
        reference='dense',
        page='levels',
        settings=ON_CAMVID,
        figure='curves',
    ),
    Study(
        'alignment',
        'Alignment of the hidden state, by the size of the gaps',
        'How much time passes at a pruned cell; `none` lets none pass. In an even pattern that kept tokens stand for '
        "and, marked `zero`, with the paper's score where pruned cells bring nothing.",
        by_gap(FOLDED, 'none carry bias') | by_gap(ONCE, 'none carry', 'zero, '),
        settings=ON_CAMVID,
    ),
    Study(
        'tokens',
        'Which tokens stay',
        'Folded and dropped by a score, single cells and blocks of 2x2; `random` is what any score has to beat.',
        vary('importance', 'clip l1 l2 delta random grid', FOLDED)
        | {f'{name}, 2x2': FOLDED | dict(importance=name, unit=(2, 2)) for name in ('clip', 'l2', 'random', 'grid')},
        reference='random',
        settings=ON_CAMVID,
    ),
    Study(
        'restoration',
        'What heads read at pruned cells',
        'What a cell without a token shows to the head; `mask_token` has to be trained.',
        vary('restoration', 'flow follow hold drift nearest interpolate zero', OURS)
        | {'mask_token': trained(OURS | dict(restoration='mask_token'))},
        reference='flow',
        settings=OF_ONE_STAGE,
    ),
    Study(
        'reduction',
        'How tokens become fewer',
        'Dropped, folded and dropped, merged with any other or a near one, once or in every layer, or fused into one.',
        vary('reduction', 'prune prune_merge merge merge_features merge_neighbours evit', FOLDED)
        | {'merge_features, every layer': EVERY_LAYER | NO_FILLS, 'merge_features, every layer, fills': EVERY_LAYER},
        reference='merge_neighbours',
        settings=OF_ONE_STAGE,
    ),
    Study(
        'where',
        'Where in the depth',
        'The same FLOPs with one, two or three prunings.',
        {f'after {n}': OURS | dict(layers=[n]) for n in (0, 1, 2, 4)}
        | {
            'after 2, 5': OURS | dict(layers=[2, 5]),
            'after 2, 5, 8': OURS | dict(layers=[2, 5, 8]),
            'after 2, 5, 8, tokens return': OURS | dict(layers=[2, 5, 8], regime='per_output'),
        },
        reference='after 0',
        settings=OF_ONE_STAGE,
    ),
    Study(
        'stages',
        'Where a backbone of several stages is pruned',
        'Layers 0, 1, 9 and 11 are the last of their stages; one of them in `layers` lets the next stage begin pruned.',
        {str(layers): OURS | dict(layers=layers) for layers in ([1], [1, 9], [1, 5], [0, 1], [3])},
        reference='[1]',
        settings=('vmamba-camvid',),
    ),
    Study(
        'retraining',
        'How to retrain',
        'Our recipe, fine-tuned in several ways, and four times as long; each against the dense model after the same '
        'number of iterations.',
        {
            'dense': trained(None),
            'ours': trained(OURS),
            'ratio warm-up': trained(OURS, custom_hooks=[dict(type='KeepRatioWarmupHook', end=75)]),
            'layer-wise rates': trained(OURS, **LAYER_WISE),
            'maps distilled': trained(OURS, custom_hooks=[dict(type='DistillationHook')]),
            'dense, 600': trained(None, iters=600),
            'ours, 600': trained(OURS, 'dense, 600', 600),
        },
        reference='dense',
        settings=('vim-camvid',),
    ),
    Study(
        'elastic',
        'One elastic checkpoint against separate ones',
        'One model, fine-tuned once while every step drew its own keep ratio, is tested at all levels. Each level is '
        'compared with the model that was fine-tuned for that level alone, just as long.',
        {label: row for number, level in enumerate(LEVELS) for label, row in elastic(level, number).items()},
        page='elastic',
        settings=('vim-camvid',),
        figure='curves',
    ),
]
