"""A progress line on a terminal, where a person may wait for more than two seconds; nothing elsewhere."""

import contextlib
from collections.abc import Callable, Iterator

import rich.console
from rich import progress


@contextlib.contextmanager
def counting(verb: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows how many are done so far."""
    console = rich.console.Console(stderr=True)
    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.completed:,.0f} {task.description}"),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(verb, total=None)
        yield lambda done: shown.update(task, completed=done)
