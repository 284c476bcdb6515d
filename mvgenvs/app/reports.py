"""Work in a thread whose reports come from a generator, as a page needs them."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

Item = TypeVar("Item")


class StoppedError(Exception):
    """Raised in the work when nobody waits for its reports any more."""


def reported(work: Callable[[Callable[[Item], None]], None]) -> Generator[Item, None, None]:
    """Runs `work` in a thread and yields what it reports; an exception of the work is raised here.

    If the generator is closed, the next report raises `StoppedError` in the work, and closing waits for its end.
    """
    outcomes: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue()
    stopped = threading.Event()

    def report(item: Item) -> None:
        if stopped.is_set():
            raise StoppedError
        outcomes.put(("item", item))

    def run() -> None:
        try:
            work(report)
            outcomes.put(("end", None))
        except StoppedError:
            pass
        except BaseException as error:  # whatever it is, it belongs to the one who waits
            outcomes.put(("error", error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = outcomes.get()
            if kind == "end":
                return
            if isinstance(value, BaseException) and kind == "error":
                raise value
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
