from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmssmprune.analysis.comparison.derive import pareto_front, pareto_optimal

# Few different values, so that ties are common.
POINTS = st.lists(st.tuples(st.integers(1, 6).map(float), st.integers(0, 6).map(float)), max_size=12)
CASES = {
    'one point': ([(1, 5)], [True]),
    'none': ([], []),
    'cheaper and better beats': ([(1, 5), (2, 4)], [True, False]),
    'dearer and better both stay': ([(1, 5), (2, 6)], [True, True]),
    'same cost, the better one stays': ([(1, 5), (1, 6)], [False, True]),
    'same value, the cheaper one stays': ([(1, 5), (2, 5)], [True, False]),
    'twins stay together': ([(1, 5), (1, 5), (2, 5)], [True, True, False]),
    'order does not matter': ([(3, 9), (2, 7), (2.5, 6), (1, 2)], [True, True, False, True]),
}


@pytest.mark.parametrize(('points', 'optimal'), CASES.values(), ids=CASES.keys())
def test_by_hand(points, optimal):
    assert pareto_optimal(points) == optimal


def test_costs_that_are_nearly_equal_count_as_equal():
    # a tenth of a percent cheaper, and far worse
    points = [(100.0, 60.0), (99.9, 30.0), (98.0, 20.0)]
    assert pareto_optimal(points) == [True, True, True]
    assert pareto_optimal(points, same_cost=0.005) == [True, False, True]
    # as good and nearly as cheap: neither beats the other
    assert pareto_optimal([(100.0, 60.0), (99.9, 60.0)], same_cost=0.005) == [True, True]


@given(POINTS)
def test_optimal_is_what_nothing_dominates(points):
    for point, optimal in zip(points, pareto_optimal(points), strict=True):
        dominated = any(o != point and o[0] <= point[0] and o[1] >= point[1] for o in points)
        assert optimal == (not dominated)


@given(POINTS, st.sampled_from([0.0, 0.005, 0.5]))
def test_the_front_rises_and_covers_every_point(points, same_cost):
    front = pareto_front(points, same_cost)
    assert bool(front) == bool(points)
    assert front == sorted(front)
    assert all(a[1] <= b[1] for a, b in pairwise(front))
    assert max((value for _, value in points), default=None) == max((value for _, value in front), default=None)
    if same_cost == 0:
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(front))
        assert all(any(f[0] <= p[0] and f[1] >= p[1] for f in front) for p in points)
