"""The progress of training: a bar for each device on a terminal, a few lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["progress"]

LINES = 4
"""How many lines a device gets where there is no terminal."""

Show = Callable[[int, float], None]
"""Takes the number of the epoch that has ended, and its loss."""


@contextlib.contextmanager
def progress(screen: Console, epochs: int) -> Iterator[Bars | Lines]:
    """Show progress on a console; what is yielded has `device(name)`, a context that gives a `Show`."""
    if not screen.is_terminal:
        yield Lines(screen, epochs)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TextColumn("{task.fields[loss]}", markup=False),
        TimeElapsedColumn(),
    )
    # Drawn when an epoch ends and not by a thread, which would take time from the steps.
    with Progress(*columns, console=screen, auto_refresh=False) as bars:
        yield Bars(bars, epochs)


class Bars:
    """A bar for each device."""

    def __init__(self, bars: Progress, epochs: int) -> None:
        self._bars = bars
        self._epochs = epochs

    @contextlib.contextmanager
    def device(self, name: str) -> Iterator[Show]:
        """Add the bar of a device."""
        task = self._bars.add_task(name, total=self._epochs, loss="")
        self._bars.refresh()

        def show(epoch: int, loss: float) -> None:
            self._bars.update(task, completed=epoch, loss=f"loss {loss:.4f}", refresh=True)

        yield show


class Lines:
    """Some lines for each device."""

    def __init__(self, screen: Console, epochs: int) -> None:
        self._screen = screen
        self._epochs = epochs
        self._every = max(1, epochs // LINES)

    @contextlib.contextmanager
    def device(self, name: str) -> Iterator[Show]:
        """Print under the name of a device."""

        def show(epoch: int, loss: float) -> None:
            if epoch % self._every == 0 or epoch == self._epochs:
                self._screen.print(f"{name}  epoch {epoch}/{self._epochs}  loss {loss:.4f}")

        yield show
