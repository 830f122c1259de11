"""A worker process of a `ProcessPool`: calls what it is sent, and dies with its parent.

Started as `python -m veridical.jobs.worker DESCRIPTOR`. No thread of the parent survives in it and its main
module is this one, so it imports nothing but what its calls need.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection

from veridical.jobs.capture import own_the_process
from veridical.runtime.errors import RunError

READY, ALIVE = "ready", "alive"


def main(descriptor: int) -> None:
    """Serve the parent behind the socket until it closes it."""
    # Ctrl-C reaches all processes of a terminal; what to do about it is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent may go while something is sent to it, or before it said anything.
    with contextlib.suppress(OSError, EOFError):
        _serve(Connection(descriptor))


def _serve(connection: Connection) -> None:
    parent, sys.path[:] = connection.recv()
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    speaking = threading.Lock()
    threading.Thread(target=_listen, args=(connection, calls, parent, speaking), daemon=True).start()
    own_the_process()
    faulthandler.enable(all_threads=False)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    message = pickle.dumps(READY)
    while True:
        with speaking:
            connection.send_bytes(message)
        message = _answer(calls.get())


def _listen(
    connection: Connection, calls: queue.SimpleQueue[bytes], parent: int, speaking: threading.Lock
) -> None:
    """Put arriving calls into the queue, say `ALIVE` while none comes, end the process with its parent."""
    with contextlib.suppress(OSError, EOFError):
        # The parent's end closes with it, unless a process that it forked holds a copy: so its number counts.
        while os.getppid() == parent:
            if connection.poll(1.0):
                calls.put(connection.recv_bytes())
            else:
                with speaking:
                    connection.send(ALIVE)
    os._exit(0)


def _answer(call: bytes) -> bytes:
    """Make one call and pickle (True, what it returned) or (False, what it raised)."""
    try:
        function, args, kwargs = pickle.loads(call)  # noqa: S301 - from our own parent, through a private socket
        return pickle.dumps((True, function(*args, **kwargs)))
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        trace = traceback.format_exc()
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)  # noqa: S301 - some errors are pickled but cannot be read again
        except Exception:  # noqa: BLE001 - whatever its pickling raises
            answer = pickle.dumps((False, RunError(trace)))
        return answer


if __name__ == "__main__":
    main(int(sys.argv[1]))
