"""What computes an operator: the one named, or the fastest that can; and the line about it in the log.

A module that cannot compute everywhere has ``problem(device_type, dtype)``, which returns None where it can, and else
says in a few words why not; '' where its name says that already.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from types import ModuleType

import torch

FASTEST = {'cpu': 'cpp', 'cuda': 'triton'}
# What an operator inside an exported program is told: the choice is made where the program runs.
AT_RUN_TIME = 'at_run_time'


@dataclass(eq=False)
class Backends:
    """The backends of one operator.

    Attributes:
        operator: as errors call it.
        calls: as the log calls its calls.
        variable: the environment variable that names a backend where a call does not, for the tensors that it can run.
        modules: by name, a slower one before a faster one.
        announced: what the log has said: names of backend and device.
    """

    operator: str
    calls: str
    variable: str
    modules: dict[str, ModuleType]
    announced: set[tuple[str, str]] = field(default_factory=set)

    def why_not(self, name: str, device_type: str, dtype: torch.dtype = torch.float32) -> str | None:
        """Why a backend cannot compute in ``dtype`` on a device here, as its module's ``problem``; None if it can."""
        module = self.modules[name]
        return module.problem(device_type, dtype) if hasattr(module, 'problem') else None

    def available(self, device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32) -> list[str]:
        """Names of the backends that compute in ``dtype`` on ``device`` here, the fastest last.

        Triton's interpreter is none of them: it runs by name only.
        """
        kind = torch.device(device).type
        names = [name for name in self.modules if name != 'triton' or kind != 'cpu']
        return [name for name in names if self.why_not(name, kind, dtype) is None]

    def choose(self, name: str | None, device: torch.device, dtype: torch.dtype) -> str:
        """Return the backend to use: ``name`` if it can run these tensors, or the fastest that can if ``name`` is None.

        Raises:
            ValueError: ``name`` is unknown, or cannot run on this device or dtype; the variable's name is unknown.
        """
        wanted = name if name is not None else _of_environment(self.variable)
        if wanted is not None and wanted not in self.modules:
            source = '' if name is not None else f' in {self.variable}'
            names = ', '.join(self.modules)
            raise ValueError(f'unknown {self.operator} backend {wanted!r}{source}; the names are {names}')
        if wanted is not None and self.why_not(wanted, device.type, dtype) is None:
            return wanted
        usable = self.available(device, dtype)
        if name is None:
            return usable[-1]
        reason = self.why_not(name, device.type, dtype)
        here = f'here ({reason})' if reason else 'here'
        raise ValueError(
            f'{self.operator} backend {name!r} cannot run {dtype} tensors on {device} {here}; use {" or ".join(usable)}'
        )

    def resolve(self, name: str, device: torch.device, dtype: torch.dtype) -> str:
        """The backend that an operator was told: ``name`` itself, or for `AT_RUN_TIME` the fastest that runs here."""
        return self.choose(None, device, dtype) if name == AT_RUN_TIME else name

    def announce(self, name: str, device_type: str) -> None:
        """Log once which backend runs, and a warning where the fastest one of the device cannot."""
        if (name, device_type) in self.announced:
            return
        self.announced.add((name, device_type))
        best = FASTEST.get(device_type, name)
        problem = None if best == name else self.why_not(best, device_type)
        logger, text = logging.getLogger('mmssmprune'), f'{self.calls} on {device_type} run in the {name} backend'
        if problem is None:
            logger.info(text)
        else:
            logger.warning('%s, because the faster %s cannot: %s', text, best, problem)


def _of_environment(variable: str) -> str | None:
    return os.environ.get(variable) or None


_of_environment._dynamo_marked_constant = True  # what torch.compiler.assume_constant_result does, without importing it
