"""What a number was measured on, for the head of a report."""

from __future__ import annotations

import datetime
import importlib.util
import subprocess
from importlib import metadata
from typing import Any

import torch

import mmssmprune
from mmssmprune.analysis.latency import describe_device
from mmssmprune.ops import available_backends


def describe_machine(device: torch.device, dtype: str) -> dict[str, Any]:
    """Device and its clocks, versions, threads, TF32, and the scan backends that can run, the default last."""
    about = describe_device(device)
    facts: dict[str, Any] = {'device': about['name'], 'dtype': dtype}
    if device.type == 'cuda':
        facts |= {
            'clocks': _clocks(device),
            'CUDA': torch.version.cuda,
            'TF32': 'on' if about['tf32_matmul'] else 'off',
        }
    facts |= {
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'Triton': _version('triton'),
        'mamba-ssm': _version('mamba_ssm', 'mamba-ssm'),
        'mmssmprune': mmssmprune.__version__,
        'scan backends': ', '.join(available_backends(device)),
        'scan backend by default': about['scan'],
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='minutes'),
    }
    return facts


def _version(module: str, distribution: str | None = None) -> str:
    if importlib.util.find_spec(module) is None:
        return 'not installed'
    try:
        return metadata.version(distribution or module)
    except metadata.PackageNotFoundError:
        return 'unknown version'


def _clocks(device: torch.device) -> str:
    """Clocks at this moment and their maxima, as nvidia-smi tells them."""
    asked = 'clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,driver_version'
    index = torch.cuda.current_device() if device.index is None else device.index
    command = ['nvidia-smi', f'--id={index}', f'--query-gpu={asked}', '--format=csv,noheader']
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 'unknown (no nvidia-smi)'
    values = [value.strip() for value in done.stdout.strip().split(',')]
    if done.returncode or len(values) != 6:
        return 'unknown (nvidia-smi does not tell)'
    return 'SM {} of at most {}, memory {} of at most {}, power limit {}, driver {}'.format(*values)
