"""Signals that end a run."""

import signal
import threading


def handle_in_thread(number: signal.Signals) -> None:
    """Run the handler of a signal in a thread of its own.

    Snakemake's handler of SIGTERM waits for a lock that the interrupted main thread may hold. In
    the main thread, it would wait for ever.
    """
    handler = signal.getsignal(number)
    if callable(handler):

        def start(*arguments: object) -> None:
            threading.Thread(target=handler, args=arguments, daemon=True).start()

        signal.signal(number, start)
