"""Runs all simulations of a sweep, one after another or several at once, and shows how far they have come."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.study import Extras, Row, Study
from cotenant.scheduler.simulation.world import World


class Task(NamedTuple):
    """One simulation."""

    policy: str
    setting: Setting
    seed: int


@dataclass(frozen=True)
class Sweep:
    """Each list varies one thing and leaves the others as the world has them."""

    world: World
    rates: Sequence[float] = ()
    cvs: Sequence[float] = ()
    slos: Sequence[float] = ()
    devices: Sequence[int] = ()

    def settings(self) -> list[Setting]:
        """Every point, once."""
        points = [Setting(rate=rate) for rate in self.rates]
        points += [Setting(cv=cv) for cv in self.cvs]
        points += [Setting(slo=slo) for slo in self.slos]
        points += [Setting(devices=count) for count in self.devices]
        return list(dict.fromkeys(points)) or [Setting()]

    def tasks(self) -> list[Task]:
        """Every simulation."""
        return [
            Task(policy, setting, seed)
            for setting in self.settings()
            for seed in range(self.world.seeds)
            for policy in self.world.policies
        ]


def run(sweep: Sweep, jobs: int, *, timed: bool) -> list[Row]:
    """The rows of all simulations, in the order of `Sweep.tasks`. Raises what a simulation raises."""
    tasks = sweep.tasks()
    if jobs < 2 or len(tasks) < 2:
        study = Study(sweep.world)
        with _bar(len(tasks)) as bar:
            return [bar.during(task, study, timed=timed) for task in tasks]
    with _bar(len(tasks)) as bar, ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_one, sweep.world, task, timed): i for i, task in enumerate(tasks)}
        rows: dict[int, Row] = {}
        for future in as_completed(futures):
            rows[futures[future]] = future.result()
            bar.done(len(rows))
    return [rows[i] for i in range(len(tasks))]


_studies: list[Study] = []  # that of this process, which runs several simulations of one world


def _one(world: World, task: Task, timed: bool) -> Row:
    if not _studies:
        _studies.append(Study(world))
    return _studies[0].run(*task, extras=Extras(timed=timed))


class _Bar:
    """Progress on a terminal; silent elsewhere."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("simulate", total=total, what="")
        self._done = 0

    def during(self, task: Task, study: Study, *, timed: bool) -> Row:
        """Runs one, and shows how far it is."""
        what = f"{task.policy}, rate {task.setting.rate:g}, seed {task.seed}"

        def tell(share: float) -> None:
            self._progress.update(self._task, completed=self._done + share, what=what)

        row = study.run(*task, tell, Extras(timed=timed))
        self.done(self._done + 1)
        return row

    def done(self, count: int) -> None:
        """So many are done."""
        self._done = count
        self._progress.update(self._task, completed=count)


@contextmanager
def _bar(total: int) -> Iterator[_Bar]:
    console = Console(stderr=True)
    columns = (TextColumn("simulate"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[what]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Bar(progress, total)
