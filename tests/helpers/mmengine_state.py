"""mmengine keeps loggers, visualizers, message hubs and the default scope by name within a process."""

from __future__ import annotations

from mmengine.utils import ManagerMixin


def forget_earlier_runs(kind: type = ManagerMixin) -> None:
    """Drop them all, as a new process would."""
    for subclass in kind.__subclasses__():
        subclass._instance_dict.clear()
        forget_earlier_runs(subclass)
