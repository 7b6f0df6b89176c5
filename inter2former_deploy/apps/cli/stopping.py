"""Signals that end a command: it cleans up first, as with Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # of whoever ends processes, and of a terminal that is closed


class Stopped(BaseException):
    """A signal ends the command; like KeyboardInterrupt no `Exception`, so that nobody takes it for a fault."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number  # as a shell reports it


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise `Stopped`, so that unfinished files go; whoever ignores them is left alone.

    Raises:
        Stopped: a signal came. Others that come after it are ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a fork has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        for one in handled:
            signal.signal(one, signal.SIG_IGN)  # the clean-up must not be stopped
        raise Stopped(number)

    owner = os.getpid()
    handled = [one for one in SIGNALS if signal.getsignal(one) == signal.SIG_DFL]
    for one in handled:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one in handled:
            signal.signal(one, signal.SIG_DFL)
