"""The live view of a terminal: a bar for each stage, events scrolling above, findings below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from axforge.cli.certificate import render
from axforge.cli.progress import Tally, Update, describe_candidate, figures, found

Document = Mapping[str, Any]


class LiveRenderer:
    """Redraws in place; what happened stays on the screen when it stops."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(finished_text=Text("✓", style="green")),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Steps(),
            TimeElapsedColumn(),
            _Left(),
            TextColumn("{task.fields[note]}", style="dim", table_column=Column(ratio=1, no_wrap=True)),
            console=console,
            expand=True,
        )
        self._status = Text("", style="dim", no_wrap=True, overflow="ellipsis")
        self._live = Live(self._view(), console=console, refresh_per_second=8)
        self._tasks: dict[str, TaskID] = {}
        self._current: str | None = None
        self._certificate: Document | None = None

    def start(self) -> None:
        self._live.start()

    def stop(self, finished: bool) -> None:
        if finished:
            self._finish_current()
        self._live.update(self._view(), refresh=True)
        self._live.stop()
        if self._certificate is not None:
            self._console.print(render(self._certificate))

    def progress(self, update: Update, tally: Tally) -> None:
        if update.stage != self._current:
            self._finish_current()
            self._current = update.stage
        if update.stage not in self._tasks:
            task = self._bars.add_task(update.stage, total=update.total, note="", left="")
            self._tasks[update.stage] = task
        note = ", ".join([*figures(update.metrics), *([update.message] if update.message else [])])
        self._bars.update(
            self._tasks[update.stage],
            completed=update.step,
            total=update.total,
            note=escape(note),
            left=update.left(),
        )

    def event(self, type: str, message: str, data: Document) -> None:
        self._console.print(Text.assemble((f"{type} ", "cyan"), message))

    def candidate(self, candidate: Document, tally: Tally) -> None:
        self._status.plain = f"{found(tally)}; last: {describe_candidate(candidate)}"
        self._live.update(self._view())

    def certificate(self, certificate: Document) -> None:
        """Below the bars, when they stand still."""
        if self._live.is_started:
            self._certificate = certificate
        else:
            self._console.print(render(certificate))

    def _view(self) -> RenderableType:
        return Group(self._bars, self._status) if self._status.plain else self._bars

    def _finish_current(self) -> None:
        """The stage before is over, whatever its last step was."""
        if self._current is None:
            return
        identity = self._tasks[self._current]
        task = next(task for task in self._bars.tasks if task.id == identity)
        total = task.total or max(task.completed, 1)
        self._bars.update(identity, total=total, completed=total, left="")
        self._current = None


class _Steps(TextColumn):
    """`12/40`, or the bare step of a stage of unknown length."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{int(task.completed)}")
        return Text(f"{int(task.completed)}/{int(task.total)}")


class _Left(TextColumn):
    """Time left, as estimated by the run."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("left", "")), style="cyan")
