from __future__ import annotations

import pytest
from tiny_backbones import make

from mmssmprune.pruning import Stage, TokenPruner, make_plan
from mmssmprune.pruning.plan import PlanTarget, overridden, plan_from_config, solve_keep_ratio
from mmssmprune.pruning.stage import default_layers


def stages(*depths: int) -> list[Stage]:
    return [Stage([None] * depth, 8, 16, first=sum(depths[:i])) for i, depth in enumerate(depths)]


def test_ceil_of_the_tokens_alive():
    plan = make_plan([1, 2], 0.7, 4)
    assert plan.tokens_per_layer(range(4), 10) == [10, 10, 7, 5]  # ceil(4.9)


def test_equal_gaps_from_a_start():
    pruner = TokenPruner(dict(start=4, every=5, keep_ratio=0.8), stages(24))
    assert pruner.plan.layers == (4, 9, 14, 19)
    assert TokenPruner(dict(start=2, every=1, keep_ratio=0.8), stages(4)).plan.layers == (2,)


def test_one_ratio_per_layer():
    assert make_plan([0, 2], [0.5, 0.1], 4).tokens_per_layer(range(4), 8) == [8, 4, 4, 1]


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
        (dict(layers=[1], keep_ratio=0.5, equal_steps='yes'), 'pruning.equal_steps must be True or False'),
        (dict(layers=[1], keep_ratio=0.5, conv_fill='x'), 'the names are zero'),
        (
            dict(layers=[1], keep_ratio=0.5, restoration='x'),
            'the names are hold, drift, follow, flow, zero, mask_token, nearest, interpolate',
        ),
    ],
)
def test_bad_pruning_dict(config, message):
    with pytest.raises(ValueError, match=message):
        TokenPruner(config, stages(4))


def test_keep_ratio_of_a_dense_model_cannot_be_set():
    with pytest.raises(ValueError, match='has no pruning'):
        TokenPruner(None, stages(4)).set_keep_ratio(0.5)


REOPENED = [
    # nothing reopened: 16 -> 8 -> 4
    ((), [16, 16, 8, 8, 4, 4]),
    # after the first pruning layer and before the second: 16 candidates there, and 8 of them stay
    ((2,), [16, 16, 8, 8, 8, 8]),
    # a layer that prunes and is tapped reopens after its pruning
    ((1,), [16, 16, 8, 8, 8, 8]),
    # too early, or too late for the second pruning layer
    ((0, 3, 4, 5), [16, 16, 8, 8, 4, 4]),
]


@pytest.mark.parametrize(('reopened', 'expected'), REOPENED)
def test_reopened_cells_are_candidates_of_the_next_pruning_layer(reopened, expected):
    plan = make_plan([1, 3], 0.5, 6)
    assert plan.tokens_per_layer(range(6), 16, reopened) == expected
    assert plan.token_share([range(6)], reopened) == pytest.approx(sum(expected) / (6 * 16))


def test_each_reopening_counts_once():
    plan = make_plan([0, 1, 2], 0.5, 4)
    assert plan.tokens_per_layer(range(4), 16, (0,)) == [16, 8, 8, 4]
    assert plan.tokens_per_layer(range(4), 16, (0, 1)) == [16, 8, 8, 8]


def test_equal_steps_take_as_many_tokens_every_time():
    plan, _ = plan_from_config(dict(start=0, every=1, keep_ratio=0.9, equal_steps=True), 6, [])
    assert plan.tokens_per_layer(range(6), 100) == [100, 90, 80, 70, 60, 50]
    assert plan.at(0.77).tokens_per_layer(range(6), 100) == [100, 77, 54, 31, 8, 1]  # one stays in any case
    assert plan.at([0.9, 0.5, 0.8, 1, 1]).tokens_per_layer(range(6), 100) == [100, 90, 40, 20, 20, 20]
    assert plan.tokens_per_layer(range(6), 100, reopened=(2,)) == [100, 90, 80, 70, 90, 80]
    assert plan.token_share([range(6)]) == pytest.approx(0.75)
    # Each size of units by itself: 24 whole ones, and four at the right of two cells.
    units, _ = plan_from_config(dict(layers=[0, 1], keep_ratio=0.75, equal_steps=True, unit=(2, 2)), 3, [])
    assert units.tokens_on_grid(range(3), (8, 13)) == [104, 78, 52]


def test_pruning_after_the_last_layer_spares_no_layer():
    assert make_plan([3], 0.5, 4).tokens_per_layer(range(4), 16) == [16] * 4


def test_token_share_is_the_mean_product_of_ratios():
    r = 0.7
    assert make_plan([5, 11, 17], r, 24).token_share([range(24)]) == pytest.approx((1 + r + r**2 + r**3) / 4)
    assert make_plan([0, 1], [0.9, 0.3], 3).token_share([range(3)]) == pytest.approx((1 + 0.9 + 0.27) / 3)


def test_by_default_a_single_stage_is_pruned_after_its_first_layer_and_deep_stages_begin_pruned():
    assert [default_layers(stages(n)) for n in (24, 8, 2, 1)] == [[0], [0], [0], []]
    assert default_layers(stages(2, 2, 8, 2)) == [3, 11]
    assert default_layers(stages(4, 2, 2)) == [0]


def test_targets_and_where_they_prune():
    plan, target = plan_from_config(dict(flops_reduction=0.4, input_shape=[224, 320], alignment='none'), 24, [5])
    assert target == PlanTarget(flops_reduction=0.4, input_shape=(224, 320))
    assert (plan.layers, plan.keep_ratios) == ((5,), (1.0,))
    plan, target = plan_from_config(dict(tokens=0.7, layers=[2, 6], keep_ratio=None), 8, [1])
    assert (plan.layers, target) == ((2, 6), PlanTarget(tokens=0.7))
    assert plan_from_config(dict(tokens=1, start=2, every=2), 8, [1])[0].layers == (2, 4, 6)
    assert plan_from_config(dict(layers=[1], keep_ratio=0.5), 4, [0]) == (make_plan([1], 0.5, 4), None)


FLOPS = dict(flops_reduction=0.3, input_shape=(64, 64))


@pytest.mark.parametrize(
    ('before', 'change', 'after'),
    [
        (FLOPS, dict(keep_ratio=0.8), dict(keep_ratio=0.8, layers='default')),
        (dict(FLOPS, layers=[3]), dict(keep_ratio=0.8), dict(keep_ratio=0.8, layers=[3])),
        (dict(tokens=0.6, start=1, every=2), dict(keep_ratio=0.8), dict(keep_ratio=0.8, start=1, every=2)),
        (FLOPS, dict(keep_ratio=[0.8, 0.5], layers=[1, 3]), dict(keep_ratio=[0.8, 0.5], layers=[1, 3])),
        (dict(keep_ratio=0.7, layers=[3]), dict(keep_ratio=0.8), dict(keep_ratio=0.8, layers=[3])),
        (dict(keep_ratio=0.7, layers=[3]), FLOPS, dict(FLOPS, layers=[3])),
        (FLOPS, dict(tokens=0.6), dict(tokens=0.6, input_shape=(64, 64))),
        (FLOPS, dict(flops_reduction=0.4), dict(flops_reduction=0.4, input_shape=(64, 64))),
        (dict(FLOPS, start=1, every=2), dict(layers=[3]), dict(FLOPS, layers=[3])),
        (dict(FLOPS, layers=[3]), dict(start=1, every=2), dict(FLOPS, start=1, every=2)),
        (FLOPS, dict(alignment='none'), dict(FLOPS, alignment='none')),
        (FLOPS, {}, FLOPS),
    ],
    ids=str,
)
def test_what_comes_from_outside_wins(before, change, after):
    assert overridden(before, {**before, **change}) == after


@pytest.mark.parametrize('change', [dict(keep_ratio=0.8, tokens=0.5), dict(keep_ratio=0.8, input_shape=(32, 32))])
def test_what_contradicts_itself_from_outside_is_still_refused(change):
    with pytest.raises(ValueError, match=r'has keep_ratio and tokens|input_shape belongs to a target'):
        plan_from_config(overridden(FLOPS, {**FLOPS, **change}), 8, [1])


def test_default_layers_by_name():
    assert plan_from_config(dict(layers='default', keep_ratio=0.5), 24, [5])[0] == make_plan([5], 0.5, 24)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({}, "needs 'keep_ratio', or a target: 'flops_reduction' or 'tokens'"),
        (dict(flops_reduction=0.4), r'flops_reduction needs the size of the image .* input_shape=\(512, 512\)'),
        (dict(flops_reduction=0.4, tokens=0.7, input_shape=(64, 64)), 'has flops_reduction and tokens, .* give one'),
        (dict(tokens=0.7, keep_ratio=0.5), 'has keep_ratio and tokens'),
        (dict(layers=[1], keep_ratio=0.5, input_shape=(64, 64)), 'input_shape belongs to a target'),
        (dict(tokens=0.7, start=1), "needs 'layers', or 'start' and 'every' instead"),
        (dict(tokens=0.7, layers=[9]), 'names layer 9'),
        *((dict(tokens=bad), 'tokens must be a share .* above 0 and at most 1, got') for bad in (0, 1.1, 'a', True)),
        *(
            (dict(flops_reduction=bad, input_shape=(64, 64)), 'flops_reduction must be a share .* 0 to below 1, got')
            for bad in (1, -0.1, 41.6, 'a', False, float('nan'), [0.4])
        ),
        *(
            (dict(flops_reduction=0.4, input_shape=bad), r'input_shape must be \(H, W\) in pixels, .* got')
            for bad in (224, (224,), (224, 0), (224.0, 224), '64', 'ab')
        ),
    ],
)
def test_bad_targets(config, message):
    with pytest.raises(ValueError, match=message):
        plan_from_config(config, 4, [])


def solve(curve, target, **kwargs):
    """The solved ratio, and how often the curve was asked."""
    calls = []

    def achieved(ratio):
        calls.append(ratio)
        return curve(ratio)

    return solve_keep_ratio(achieved, target, **kwargs), len(calls)


def test_solver_on_rising_and_falling_curves():
    ratio, calls = solve(lambda r: (1 + r + r**2 + r**3) / 4, 0.6)
    assert (1 + ratio + ratio**2 + ratio**3) / 4 == pytest.approx(0.6, abs=1e-3)
    assert ratio == round(ratio, 4)
    assert calls <= 8
    assert solve(lambda r: 0.6 * (1 - r**2), 0.3)[0] == pytest.approx(0.5**0.5, abs=2e-3)


def test_a_guide_that_the_curve_follows_saves_calls():
    curve = make_plan([5, 11, 17], 1, 24)

    def share(ratio: float) -> float:
        return curve.at(ratio).token_share([range(24)])

    ratio, calls = solve(
        lambda r: 0.8 - 0.8 * share(r),
        0.35,
        guide=share,
    )
    assert 0.8 - 0.8 * share(ratio) == pytest.approx(0.35, abs=1e-3)
    assert calls == 3


def test_solver_takes_the_nearest_step():
    def stairs(ratio):  # three whole tokens
        return make_plan([0], ratio, 2).tokens_per_layer(range(2), 3)[1] / 3

    assert stairs(solve(stairs, 0.6)[0]) == pytest.approx(2 / 3)
    assert stairs(solve(stairs, 0.4)[0]) == pytest.approx(1 / 3)
    assert stairs(solve(stairs, 0.9)[0]) == 1
    assert solve(stairs, 1.0)[0] == 1


def test_solver_beyond_the_ends_and_on_a_flat_curve():
    assert solve(lambda r: r / 2, 0.8)[0] == 1
    assert solve(lambda r: 0.5 + r / 2, 0.1)[0] == 1e-4
    assert solve(lambda r: 0.0, 0.3)[0] == 1


@pytest.mark.parametrize(
    ('named', 'reduction'),
    [
        ({}, 'merge_neighbours'),
        (dict(restoration='hold'), 'merge_neighbours'),
        (dict(importance='l2'), 'prune_merge'),
        (dict(unit=(2, 2)), 'prune_merge'),
        (dict(importance='l2', reduction='prune'), 'prune'),
        (dict(importance='l2', reduction='merge'), 'merge'),
    ],
    ids=str,
)
def test_a_dict_that_names_a_score_or_a_unit_gets_a_reduction_that_goes_by_scores(named, reduction):
    assert make('plain_mamba', pruning=dict(layers=[0], keep_ratio=0.5, **named)).pruner.names['reduction'] == reduction
