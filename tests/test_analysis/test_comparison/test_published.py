from __future__ import annotations

from pathlib import Path

import pytest

from mmssmprune.analysis.comparison.entries import find_entries
from mmssmprune.analysis.comparison.published import FILE, find_published, read_published
from mmssmprune.analysis.comparison.report import Published

REPO = Path(__file__).resolve().parents[3]
UPERNET = 'plain-mamba-l1_upernet_8xb2-160k_ade20k-512x512'
MIOU = ('mIoU',)


def test_every_entry_has_numbers_source_and_address():
    entries = read_published()
    assert len(entries) >= 20
    for entry in entries:
        assert entry['task'] in ('detection', 'segmentation', 'classification')
        assert all(0 < value < 100 for value in entry['percent'].values())
        assert 'https://' in entry['citation']
        # what is said to be the source's own is from an official repository or an abstract that was read
        assert entry.get('quoted') or 'official repository' in entry['citation'] or 'abstract' in entry['citation']


def test_official_and_quoted_numbers():
    official = find_published(UPERNET, 'PlainMamba-L1', 'segmentation', MIOU, None)
    assert official == Published(
        {'mIoU': 44.1},
        'PlainMamba (official repository), https://github.com/ChenhongyiYang/PlainMamba',
        recipe='UperNet 160k',
    )
    quoted = find_published('vim-t_upernet_4xb8-60k_ade20k-512x512', 'Vim-T', 'segmentation', MIOU, None)
    assert (quoted.percent, quoted.quoted) == ({'mIoU': 41.0}, True)


def test_vmambas_numbers_belong_to_schedules():
    def find(config: str, size: str, task: str, *metrics: str) -> dict[str, float]:
        return find_published(config, f'VMamba-{size}', task, metrics, None).percent

    boxes = 'bbox mAP', 'segm mAP'
    assert list(find('vmamba-t_mask-rcnn_8xb2-1x_coco', 'T', 'detection', *boxes).values()) == [47.3, 42.7]
    assert list(find('vmamba-t_mask-rcnn_8xb2-ms-3x_coco', 'T', 'detection', *boxes).values()) == [48.8, 43.7]
    assert list(find('vmamba-b_mask-rcnn_8xb2-1x_coco', 'B', 'detection', *boxes).values()) == [49.2, 44.1]
    assert find('vmamba-s_upernet_8xb2-160k_ade20k-512x512', 'S', 'segmentation', *MIOU) == {'mIoU': 50.6}
    assert find('vmamba-b_8xb128_in1k', 'B', 'classification', 'top-1') == {'top-1': 83.9}


NOTHING = {
    'another schedule': ('plain-mamba-l1_upernet_8xb2-80k_ade20k-512x512', 'PlainMamba-L1', 'segmentation', None),
    'another data set': ('plain-mamba-l1_upernet_8xb2-160k_mini-ade-128x128', 'PlainMamba-L1', 'segmentation', None),
    'another backbone in the config': (UPERNET, 'PlainMamba-L2', 'segmentation', None),
    'another task': (UPERNET, 'PlainMamba-L1', 'detection', None),
    'pruned': (UPERNET, 'PlainMamba-L1', 'segmentation', {'flops_reduction': 0.3}),
    'a longer schedule of Vim': ('vim-t_upernet_4xb8-160k_ade20k-512x512', 'Vim-T', 'segmentation', None),
}


@pytest.mark.parametrize('case', NOTHING.values(), ids=NOTHING.keys())
def test_what_was_not_published_has_no_number(case):
    config, family, task, pruning = case
    assert find_published(config, family, task, ('mIoU', 'bbox mAP'), pruning) is None


def test_pruned_numbers_need_the_same_method_and_flops():
    def find(**pruning):
        return find_published('vim-s-pruned_8xb128_in1k', 'Vim-S', 'classification', ('top-1',), pruning)

    assert find(flops_reduction=0.29).percent == {'top-1': 78.8}
    assert find(flops_reduction=0.297, reduction='evit').percent == {'top-1': 74.8}
    assert find(flops_reduction=0.29, reduction='merge') is None
    assert find(flops_reduction=0.2) is None
    assert find(keep_ratio=0.7) is None


def test_only_the_metrics_that_are_asked_for():
    config, family = 'plain-mamba-adapter-l1_mask-rcnn_8xb2-1x_coco', 'PlainMambaAdapter-L1'
    found = find_published(config, family, 'detection', ('bbox mAP',), None)
    assert found.percent == {'bbox mAP': 44.1}
    assert find_published(config, family, 'detection', ('mIoU',), None) is None


def test_a_bad_file_is_refused(tmp_path: Path):
    text = FILE.read_text()
    nameless, twice = tmp_path / 'nameless.yml', tmp_path / 'twice.yml'
    nameless.write_text(text.replace('source: vim_paper', 'source: somewhere'))
    with pytest.raises(ValueError, match='a source that sources lists'):
        read_published(nameless)
    head, _, entries = text.partition('entries:\n')
    twice.write_text(f'{head}entries:\n{entries}{entries}')
    with pytest.raises(ValueError, match='has 2 entries for'):
        find_published(UPERNET, 'PlainMamba-L1', 'segmentation', MIOU, None, twice)


def test_the_dense_configs_of_this_repository_find_theirs():
    names = ('adapter-l[123]_mask-rcnn_*', 'adapter-l[123]_retinanet_*', 'l[123]_upernet_*')
    paths = [path for name in names for path in (REPO / 'configs/plain_mamba').glob(f'plain-mamba-{name}.py')]
    assert len(paths) == 9
    names = ('mask-rcnn_*-1x_coco', 'mask-rcnn_*-3x_coco', 'upernet_*')
    paths += [path for name in names for path in (REPO / 'configs/vmamba').glob(f'vmamba-[tsb]_{name}.py')]
    assert len(paths) == 17
    for entry in find_entries([str(path) for path in paths]):
        metrics = [metric.title for metric in entry.task.metrics]
        found = find_published(entry.config_path.stem, entry.family, entry.task.name, metrics, entry.pruning)
        assert list(found.percent) == metrics


@pytest.mark.parametrize(
    ('old', 'new', 'told'),
    [
        ('entries:', 'entries: !!python/object/apply:os.system ["touch RUN"]\nothers:', 'is no YAML file'),
        ('    url: https://github.com/hustvl/Vim', '', r'damaged: sources.vim.url is missing'),
        ('entries:', 'entries: 3\nothers:', 'damaged: entries should be a list, got 3'),
        ('family: Vim-T', 'family: [Vim-T]', r'damaged: entries\[\d+\].family should be a text'),
    ],
    ids=['a command', 'a missing key', 'another kind', 'a list'],
)
def test_a_damaged_file_is_told_and_runs_nothing(old: str, new: str, told: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x.yml').write_text(FILE.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=told):
        read_published(tmp_path / 'x.yml')
    assert not (tmp_path / 'RUN').exists()
