"""How a process with an event loop is told to end."""

import asyncio
import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The supervisor and systemd send the first, a terminal the second."""


def asked() -> asyncio.Event:
    """Return what is set once this process is told to end; to be called in its event loop."""
    stop = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
