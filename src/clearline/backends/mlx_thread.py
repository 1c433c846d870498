"""The one thread that does all of MLX's work.

What `mx.compile` makes, and streams, are a thread's own: in a second one every step would be traced again, and a new model could be
given the compiled steps of one that is gone. A GPU has one queue anyway.
"""

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
_here = threading.local()
_lock = threading.Lock()
_thread: threading.Thread | None = None
# What a program that ends waits for the work that is being done.
_LAST_SECONDS = 2.0


def on_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, done by MLX's thread. Who stops waiting (Ctrl-C) takes back what has not begun."""
    if hasattr(_here, "is_it"):
        return work()
    future: Future[T] = Future()
    _start()
    _work.put((future, work))
    try:
        return future.result()
    finally:
        future.cancel()  # does nothing to what is done


def _start() -> None:
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            # A daemon: sessions may be stepped for as long as any thread runs, and a program can end in the middle of a step.
            _thread = threading.Thread(target=_serve, name="mlx", daemon=True)
            _thread.start()


def _serve() -> None:
    _here.is_it = True
    while True:
        _do(*_work.get())


def _do(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # which belongs to who waits
        future.set_exception(error)


@atexit.register
def _finish() -> None:
    """Not in the middle of a step, if that does not take long."""
    if _thread is not None and _thread.is_alive():
        done: Future[None] = Future()
        _work.put((done, lambda: None))
        try:
            done.result(_LAST_SECONDS)
        except TimeoutError:
            done.cancel()
