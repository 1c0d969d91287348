"""What is drawn: annotations exact, the context rule true, train and val made of different pixels."""

from __future__ import annotations

import numpy as np
import pytest

from mmssmprune.datasets.scenes import LARGEST, SEG_CLASSES, SMALLEST, draw_scene
from mmssmprune.datasets.sources import DIGITS, load_sources


@pytest.fixture(scope='module')
def sources():
    return {split: load_sources(split) for split in ('train', 'val')}


@pytest.fixture(scope='module')
def scenes(sources):
    return [draw_scene(np.random.default_rng(i), sources['train'], 128) for i in range(60)]


def label_of(name: str) -> int:
    return 1 + SEG_CLASSES.index(name)


def test_visible_masks_do_not_overlap_and_equal_the_label_map(scenes):
    for scene in scenes:
        things = {name: np.zeros((128, 128), int) for name in SEG_CLASSES}
        for thing in scene.things:
            things[thing.category] += thing.mask
        assert sum(things.values()).max() <= 1
        for name in ('zero', 'one', 'four_red', 'four_blue'):
            labelled = scene.labels == label_of(name)
            # The soft edge of a later digit is unlabelled, and hides nothing.
            assert np.array_equal(labelled, (things[name] > 0) & (scene.labels != 0))
            assert labelled.sum() >= 0.5 * things[name].sum()


def test_every_thing_is_visible_by_half_at_least(scenes):
    for scene in scenes:
        assert 1 <= len(scene.things) <= 6
        for thing in scene.things:
            assert thing.mask.sum() >= 0.5 * thing.full_area > 0


def test_the_marker_decides_every_four_of_its_image(scenes):
    seen = set()
    for scene in scenes:
        fours = {t.category for t in scene.things if t.category.startswith('four')}
        assert fours <= {f'four_{scene.marker}'}
        seen |= fours
    assert seen == {'four_red', 'four_blue'}


def test_the_coin_shows_the_colour_of_the_marker(scenes):
    for scene in scenes:
        coin = scene.image[scene.labels == label_of('coin')].mean(0)
        assert len(coin) == 3
        assert (coin[0] > coin[2]) == (scene.marker == 'red')
        assert (scene.labels == label_of('coin')).sum() > 200


def test_objects_span_the_scales(scenes):
    extents = [max(np.ptp(np.argwhere(t.mask), axis=0) + 1) for s in scenes for t in s.things]
    assert min(extents) <= 12
    assert max(extents) >= 80
    assert all(SMALLEST / 2 <= e <= LARGEST * 1.25 for e in extents)


def test_all_stuff_classes_occur(scenes):
    present = set(np.unique(np.stack([s.labels for s in scenes])))
    assert present == set(range(len(SEG_CLASSES) + 1))


def test_train_and_val_share_no_source_pixel(sources):
    train, val = sources['train'], sources['val']
    for kind in ('backgrounds', 'textures'):
        for a, b in zip(getattr(train, kind), getattr(val, kind), strict=True):
            assert a.photo == b.photo
            assert a.columns[1] <= b.columns[0]
    assert max(c.columns[1] for c in train.coins) <= min(c.columns[0] for c in val.coins)
    assert min(len(train.coins), len(val.coins)) >= 3
    for digit in DIGITS:
        assert not set(train.digit_index[digit]) & set(val.digit_index[digit])
        assert len(val.digits[digit]) > 40


def test_unknown_split():
    with pytest.raises(ValueError, match="split is 'test'; the names are train, val"):
        load_sources('test')
