from __future__ import annotations

import time

import pytest

from mmssmprune.analysis.latency import describe_device, measure_latency, turns


def test_runs_are_counted_and_taken_in_turns():
    made: list[str] = []
    begun: list[str] = []
    calls = {name: lambda name=name: made.append(name) for name in 'ab'}
    measured = measure_latency(calls, 'cpu', runs=5, warmup=3, before_turn=begun.append)
    assert [len(measured[name]['runs_ms']) for name in 'ab'] == [5, 5]
    assert begun == ['a', 'b'] * turns(5) == ['a', 'b'] * 3
    # 3 + 2 runs in the first turn, then one untimed run each and what is left
    assert ''.join(made) == 'aaaaa' + 'bbbbb' + 'aaa' + 'bbb' + 'aa' + 'bb'


def test_median_in_milliseconds():
    pauses = iter([0.0, 0.02, 0.3, 0.0, 0.03])  # warm-up, two runs, an untimed one, the last run
    measured = measure_latency({'sleep': lambda: time.sleep(next(pauses))}, 'cpu', runs=3, warmup=1)['sleep']
    assert 30 <= measured['median_ms'] < 200
    assert measured['median_ms'] == sorted(measured['runs_ms'])[1]


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match='at least 1 timed run'):
        measure_latency({}, 'cpu', runs=0)


def test_device_is_named():
    device = describe_device('cpu')
    assert device['name']
    assert device['threads'] >= 1
    assert device['dtype'] == 'float32'
    assert device['scan'] in ('cpp', 'torch')
