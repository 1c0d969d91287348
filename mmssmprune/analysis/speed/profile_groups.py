"""Where the time of a call goes, by groups of operators, as torch.profiler sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first group one of whose words is in an operator's name has its time.
GROUPS = {
    'scan': ('mmssmprune::multi_scan', 'selectivescan'),
    'convolution': ('mmssmprune::kept_conv', 'conv'),
    'linear': ('addmm', '::mm', 'bmm', 'linear', 'matmul'),
    'norm': ('norm', 'rsqrt'),
    'gathers and sorts': ('gather', 'index', 'scatter', 'sort', 'topk', 'embedding', 'nonzero', 'searchsorted'),
    'copies and layout': ('copy_', 'clone', 'contiguous', 'cat', 'stack', 'flip', 'fill_', 'zero_'),
}
REST = 'rest'


def time_by_group(call: Callable[[], Any], device: torch.device, runs: int = 3) -> dict[str, float]:
    """Milliseconds of one call by group; on a GPU those of its kernels, put down to the operator that launched them.

    Operators called by our own operators count as these.
    """
    call()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == 'cuda')
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(runs):
            call()
    times = dict.fromkeys([*GROUPS, REST], 0.0)
    for event in profiler.events():
        times[_group_of(event)] += _own_time(event, device)
    return {name: microseconds / 1000 / runs for name, microseconds in times.items()}


def _own_time(event: Any, device: torch.device) -> float:
    if device.type == 'cuda':
        return event.self_device_time_total if event.device_type == torch.autograd.DeviceType.CPU else 0.0
    return event.self_cpu_time_total


def _group_of(event: Any) -> str:
    """The group of the outermost of our operators around the event, or of the event itself."""
    ancestor, own = event.cpu_parent, None
    while ancestor is not None:
        own = ancestor.name if 'mmssmprune::' in ancestor.name else own
        ancestor = ancestor.cpu_parent
    name = (own or event.name).lower()
    return next((group for group, words in GROUPS.items() if any(word in name for word in words)), REST)
