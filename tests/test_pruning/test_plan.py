from __future__ import annotations

import pytest

from mmssmprune.pruning import TokenPruner, make_plan


def test_ceil_of_the_tokens_alive():
    plan = make_plan([1, 2], 0.7, 4)
    assert plan.tokens_per_layer(4, 10) == [10, 10, 7, 5]  # ceil(4.9)


def test_equal_gaps_from_a_start():
    pruner = TokenPruner.from_config(dict(start=4, every=5, keep_ratio=0.8), 24)
    assert pruner.plan.layers == (4, 9, 14, 19)
    assert TokenPruner.from_config(dict(start=2, every=1, keep_ratio=0.8), 4).plan.layers == (2,)


def test_one_ratio_per_layer():
    assert make_plan([0, 2], [0.5, 0.1], 4).tokens_per_layer(4, 8) == [8, 4, 4, 1]


def test_floating_point_does_not_add_a_token():
    assert make_plan([0], 0.55, 2).keep_after(0, 100) == 55
    assert 0.55 * 100 > 55


def test_at_least_one_token_stays():
    assert make_plan([0], 0.01, 2).keep_after(0, 3) == 1


@pytest.mark.parametrize('keep_ratio', [0, 1.5, -0.1, 'a', None, True, float('nan'), [0.5, 2], [0.5, 'a']])
def test_bad_keep_ratio(keep_ratio):
    with pytest.raises(ValueError, match=r'keep_ratio must be a number above 0 and at most 1, got'):
        make_plan([1, 2], keep_ratio, 4)


@pytest.mark.parametrize(
    ('layers', 'message'),
    [
        ([4], 'names layer 4, but this backbone has layers 0 to 3'),
        ([-1], 'names layer -1'),
        ([2, 1], 'must be ascending'),
        ([1, 1], 'must be ascending without repeats'),
        (5, 'must be a list of layer numbers'),
        (['a'], 'must be a list of layer numbers'),
    ],
)
def test_bad_layers(layers, message):
    with pytest.raises(ValueError, match=message):
        make_plan(layers, 0.5, 4)


def test_number_of_ratios():
    with pytest.raises(ValueError, match='has 3 values for 2 layers'):
        make_plan([1, 2], [0.5, 0.5, 0.5], 4)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (
            dict(layers=[1], keep_ratio=0.5, ratio=1),
            "unknown key 'ratio'; the keys are layers, start, every, keep_ratio",
        ),
        (dict(layers=[1]), "needs 'keep_ratio'"),
        (dict(keep_ratio=0.5), "needs 'layers', or 'start' and 'every'"),
        (dict(layers=[1], start=1, every=1, keep_ratio=0.5), "needs 'layers', or 'start' and 'every' instead"),
        (dict(start=1, keep_ratio=0.5), "needs 'layers', or 'start' and 'every'"),
        (dict(start=3, every=1, keep_ratio=0.5), 'pruning.start must be a whole number from 0 to 2, got 3'),
        (dict(start=0, every=0, keep_ratio=0.5), 'pruning.every must be a whole number from 1 to 4, got 0'),
        (dict(layers=[1], keep_ratio=0.5, alignment='x'), "alignment is 'x'; the names are none, carry, bias"),
        (dict(layers=[1], keep_ratio=0.5, importance='x'), "importance is 'x'; the names are clip, sum, l1, l2, delta"),
        (dict(layers=[1], keep_ratio=0.5, importance='cls_similarity'), 'needs a class token'),
        (dict(layers=[1], keep_ratio=0.5, conv_fill='x'), 'the names are zero'),
        (
            dict(layers=[1], keep_ratio=0.5, restoration='x'),
            'the names are hold, nearest, interpolate, mask_token, zero',
        ),
    ],
)
def test_bad_pruning_dict(config, message):
    with pytest.raises(ValueError, match=message):
        TokenPruner.from_config(config, 4)


def test_keep_ratio_of_a_dense_model_cannot_be_set():
    with pytest.raises(ValueError, match='has no pruning'):
        TokenPruner.from_config(None, 4).set_keep_ratio(0.5)
