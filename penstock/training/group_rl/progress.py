"""A line on the terminal while a policy learns: step, reward, groups without gradient, time left."""

from __future__ import annotations

from types import TracebackType


class LearningProgress:
    """As ``training.metrics.StepProgress``, with what this loop has to say."""

    def __init__(self, steps: int, done: int, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("  {task.fields[what]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("reward {task.fields[reward]}"),
            TextColumn("no gradient {task.fields[flat]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._task = self._bar.add_task("learn", total=steps, completed=done, what="learn", reward="-", flat="-")

    def doing(self, what: str) -> None:
        """Name what is being done: answers, rewards, an update, an evaluation."""
        self._bar.update(self._task, what=what)

    def update(self, step: int, reward: float | None, zero_gradient: float | None) -> None:
        self._bar.update(
            self._task,
            completed=step,
            reward="-" if reward is None else f"{reward:.3f}",
            flat="-" if zero_gradient is None else f"{100 * zero_gradient:.0f} %",
        )

    def __enter__(self) -> LearningProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
