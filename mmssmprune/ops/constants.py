"""Tensors that depend on nothing but numbers, made once and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def kept_constant(make: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: keep what ``make`` returns for its arguments, a device among them, for later calls.

    Under a dispatch mode (fake tensors, export), a transform of ``torch.func`` or a compiler, tensors belong to that
    alone: there nothing is kept, and nothing kept is returned. ``make`` names the device of all that it makes, and
    makes it on that device, so that no host waits.
    """

    @lru_cache(maxsize=64)
    def kept(*args: Any) -> Any:
        with torch.inference_mode(False):  # autograd takes no tensor from inside that mode
            return make(*args)

    @wraps(make)
    def get(*args: Any) -> Any:
        # The compiler's question comes first: torch.compile cannot trace the others.
        return make(*args) if torch.compiler.is_compiling() or _in_a_mode() else kept(*args)

    get.cache_clear = kept.cache_clear
    return get


def _in_a_mode() -> bool:
    in_transform = torch._C._functorch.peek_interpreter_stack() is not None
    return in_transform or bool(_get_current_dispatch_mode_stack())
