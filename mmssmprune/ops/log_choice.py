"""One line in the log about the backend that computes."""

from __future__ import annotations

import logging
from types import ModuleType


def log_choice(what: str, name: str, device_type: str, fastest: dict[str, tuple[str, ModuleType]]) -> None:
    """Log which backend runs, and a warning where the ``fastest`` of the device, by name and module, cannot.

    A module's function ``problem`` takes the device, but for the one in C++, which knows one device only.
    """
    best, module = fastest.get(device_type, (name, None))
    problem = None
    if best != name:
        problem = module.problem() if best == 'cpp' else module.problem(device_type)
    logger = logging.getLogger('mmssmprune')
    if problem is None:
        logger.info('%s on %s run in the %s backend', what, device_type, name)
    else:
        logger.warning(
            '%s on %s run in the %s backend, because the faster %s cannot: %s', what, device_type, name, best, problem
        )
