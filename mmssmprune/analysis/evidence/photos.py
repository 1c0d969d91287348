"""The plan for photographs: CamVid first, then nuclei and blood cells; `docs/data.md` says how to get them.

    python tools/evidence.py --plan mmssmprune/analysis/evidence/photos.py --work-dir work_dirs/photos --out DIR

The first study alone, without fine-tuning and with one seed of Vim, is `make real`: about an hour on one core.
"""

from __future__ import annotations

from typing import Any

from mmssmprune.analysis.evidence.plan import Study, StudyRow, StudySetting

ABOUT = 'Measured by this project on photographs that anybody can download (docs/data.md):'
COMMAND = 'python tools/evidence.py --plan mmssmprune/analysis/evidence/photos.py'
LIMITS = """\
These are models of twelve layers, trained from scratch for half an hour on a processor: on photographs, but far from
the size and the accuracy of published models."""
PAGE_TITLES = dict(levels='Recipes', ablations='Ablations')

CAMVID, LARGE = 'upernet_1xb8-1200i_camvid-192x256.py', dict(shape=(240, 320))
SETTINGS = [
    StudySetting('vim-camvid', 'Vim, CamVid', f'configs/vim/vim-mini12_{CAMVID}', 'seg', 1200, 150, **LARGE),
    StudySetting(
        'vmamba-camvid',
        'VMamba, CamVid',
        'configs/vmamba/vmamba-mini12_upernet_1xb8-1200i_camvid-288x384.py',
        'seg',
        1200,
        150,
        shape=(360, 480),
        flops_reduction=0.3,  # its first two stages, which stay dense, are too much of it for more
    ),
    StudySetting(
        'plain_mamba-camvid',
        'PlainMamba, CamVid',
        f'configs/plain_mamba/plain-mamba-mini12_{CAMVID}',
        'seg',
        1200,
        150,
        **LARGE,
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
WITH_A_SEQUENCE = ('vim-camvid', 'vim-nuclei')

# What a row is unless it says otherwise: pruned once, where a target prunes by default.
ONCE: dict[str, Any] = dict(reduction='prune', importance='clip', alignment='carry', conv_fill='zero')
ONCE |= dict(restoration='follow', layers='default')
PAPER = ONCE | dict(layers=[2, 5, 8], restoration='hold')
NAIVE = dict(alignment='none', conv_fill='compact')
LEVELS = {'-20 %': 0.2, '-30 %': 0.3, '-40 %': 0.4}
# Units of cells make the gaps long, and a small keep ratio does too.
GAPS = {'keep 0.7': dict(keep_ratio=0.7), 'keep 0.3': dict(keep_ratio=0.3)}
GAPS |= {f'{name}, 4x4 cells': dict(ratio, unit=(4, 4)) for name, ratio in GAPS.items()}
# R-MeeTo: r tokens after every layer, by the features before the mixer.
EVERY_LAYER = dict(start=0, every=1, equal_steps=True, reduction='merge_features', importance='clip')


def vary(key: str, values: str, base: dict[str, Any] = ONCE) -> dict[str, Any]:
    """A row for each value of one key."""
    return {value: base | {key: value} for value in values.split()}


def trained(pruning: dict[str, Any]) -> StudyRow:
    """A row that means nothing without fine-tuning."""
    return StudyRow(pruning, ('tuned',))


STUDIES = [
    Study(
        'recipes',
        'Recipes',
        "The dense model, the paper's recipe, and others at equal FLOPs of the backbone.",
        {
            'dense': None,
            "the paper's": PAPER,
            'once, clip, follow': ONCE,
            'once, random, follow': ONCE | dict(importance='random'),
            'once, clip, 2x2 cells': ONCE | dict(unit=(2, 2)),
            'once, prune_merge': ONCE | dict(reduction='prune_merge'),
            'once, merge': ONCE | dict(reduction='merge'),
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
        'alignment',
        'Alignment of the hidden state, by the size of the gaps',
        'How much time passes at a pruned cell; `none` lets none pass.',
        {
            f'{name}, {gap}': StudyRow(
                ONCE | how | dict(alignment=name), against=None if name == 'none' else f'none, {gap}'
            )
            for gap, how in GAPS.items()
            for name in ('none', 'carry', 'bias', 'calibrated', 'learned')
        },
        settings=ON_CAMVID,
    ),
    Study(
        'tokens',
        'Which tokens stay',
        'Single cells and blocks of 2x2 cells; `random` is what any score has to beat.',
        vary('importance', 'clip l1 l2 delta random grid')
        | {f'{name}, 2x2 cells': ONCE | dict(importance=name, unit=(2, 2)) for name in ('clip', 'l2', 'random', 'grid')}
        | {'learned': trained(ONCE | dict(importance='learned'))}
        | {'learned, 2x2 cells': trained(ONCE | dict(importance='learned', unit=(2, 2)))},
        reference='random',
    ),
    Study(
        'reduction',
        'How tokens become fewer',
        'Dropped, folded and dropped, merged once by the outputs or in every layer by the features, or fused into one.',
        vary('reduction', 'prune prune_merge merge merge_features evit') | {'merge_features, every layer': EVERY_LAYER},
        reference='prune',
        settings=('vim-camvid', 'plain_mamba-camvid', 'vim-nuclei'),
    ),
    Study(
        'where',
        'Where in the depth',
        'The same FLOPs with one, two or three prunings.',
        {
            'after 2': ONCE,
            'after 2, 5': ONCE | dict(layers=[2, 5]),
            'after 2, 5, 8': ONCE | dict(layers=[2, 5, 8]),
            'after 2, 5, 8, tokens return': ONCE | dict(layers=[2, 5, 8], regime='per_output'),
        },
        reference='after 2',
        settings=('vim-camvid', 'plain_mamba-camvid'),
    ),
    Study(
        'levels',
        'Dense against pruned',
        'The dense model, fine-tuned just as long, and one pruning at three levels.',
        {'dense': None}
        | {level: ONCE | dict(flops_reduction=share, input_shape=(240, 320)) for level, share in LEVELS.items()},
        reference='dense',
        page='levels',
        settings=('vim-camvid', 'plain_mamba-camvid'),
        figure='curves',
    ),
]
