"""Missing data are found however a config states its paths, and what is there is not called missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmssmprune.datasets import check_data_root, stated_paths


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ('train', 'labels'):
        (tmp_path / name).mkdir()
    (tmp_path / 'train.json').write_text('{}')
    return tmp_path


def check(dataset: dict[str, Any]) -> None:
    check_data_root(Config(dict(train_dataloader=dict(dataset=dataset))), ('train_dataloader',))


WAYS = {
    'string prefix (mmpretrain)': lambda root: dict(data_root=root, data_prefix='train'),
    'string prefix alone': lambda root: dict(data_prefix=f'{root}/train'),
    'dict prefix': lambda root: dict(data_root=root, data_prefix=dict(img='train', seg_map_path='labels')),
    'an unset entry': lambda root: dict(data_root=root, data_prefix=dict(img_path='train', seg_map_path=None)),
    'no prefix': lambda root: dict(data_root=root, data_prefix=None),
    'absolute annotations': lambda root: dict(ann_file=f'{root}/train.json', data_root=f'{root}', data_prefix='train'),
    'lists': lambda root: dict(data_root=root, ann_file=['train.json'], data_prefix=['train', 'labels']),
    'a list in a dict': lambda root: dict(data_root=root, data_prefix=dict(img=['train', 'labels'])),
}
WRAPPERS = {
    'none': lambda dataset: dataset,
    'RepeatDataset': lambda dataset: dict(type='RepeatDataset', times=2, dataset=dataset),
    'ConcatDataset': lambda dataset: dict(type='ConcatDataset', datasets=[dict(data_root='/'), dataset]),
    'ClassBalancedDataset': lambda dataset: dict(type='ClassBalancedDataset', oversample_thr=1, dataset=dataset),
    'mixed and repeated': lambda dataset: dict(
        type='MultiImageMixDataset', pipeline=[], dataset=dict(type='RepeatDataset', times=2, dataset=dataset)
    ),
}


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize('state', WAYS.values(), ids=WAYS.keys())
def test_what_is_there_passes_and_what_is_missing_is_named(state: Any, wrap: Any, data: Path):
    dataset = state(str(data))
    check(wrap(dataset))
    (data / 'train').rmdir()
    (data / 'train.json').unlink()
    if any('train' in path for path in stated_paths(dataset)):
        with pytest.raises(FileNotFoundError, match=r'train_dataloader reads \S*/train\S*, which does not exist'):
            check(wrap(dataset))


@pytest.mark.parametrize(
    'dataset',
    [
        dict(data_root='s3://bucket/coco', ann_file='a.json', data_prefix=dict(img='train/')),
        dict(data_root='data/none', ann_file='a.json', backend_args=dict(backend='petrel', path_mapping={})),
        dict(data_root='data/none', ann_file='a.json', backend_args=dict(backend='http')),
        dict(type='CIFAR10', data_prefix='data/none'),  # downloads itself
    ],
)
def test_what_is_not_on_a_local_disk_answers_for_itself(dataset: dict[str, Any]):
    check(dataset)
