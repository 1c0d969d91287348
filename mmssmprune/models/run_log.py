"""What the operators log goes into the log of the run, which so says which backend computes and why no faster one."""

from __future__ import annotations

import logging

from mmengine.logging import MMLogger, print_log


class _RunLog(logging.Handler):
    """Hands records on to mmengine's current logger; without one, warnings go to stderr as elsewhere."""

    def emit(self, record: logging.LogRecord) -> None:
        if MMLogger._instance_dict:
            print_log(record.getMessage(), 'current', record.levelno)
        elif record.levelno >= logging.WARNING:
            logging.lastResort.handle(record)


def follow_operators() -> None:
    """Send the records of the logger ``mmssmprune`` on, once."""
    logger = logging.getLogger('mmssmprune')
    if not any(isinstance(handler, _RunLog) for handler in logger.handlers):
        logger.addHandler(_RunLog())
        logger.setLevel(logging.INFO)
