"""Child processes that end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def exit_with_parent() -> None:
    """Prepare a `multiprocessing` worker: ignore Ctrl-C, which the parent handles, and exit when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    """Wait for the main process, not for the fork server, which lives as long as any of its children."""
    import multiprocessing  # here: `aligngpt --help` imports this module

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def terminate_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn` for `subprocess.Popen` that ends the child when this process is killed; Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: code between fork and exec has to be minimal
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at SIGTERM; outside the main thread, where no signals arrive, do nothing."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
