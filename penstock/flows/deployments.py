"""The file of ``penstock serve``: which verb runs with what, when, and beside what.

Its keys are checked as those of a recipe are, and so are the recipes, overrides and settings that it names, before a
server starts.

    deployments:
      - name: nightly
        verb: build
        recipe: corpus.yaml
        schedule: {cron: "0 3 * * *", timezone: Europe/Berlin}
"""

from __future__ import annotations

import asyncio
import re
import zoneinfo
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from penstock._recipe_lines import Reading, not_yaml
from penstock._recipe_reading import strange_keys
from penstock._yaml import load_yaml
from penstock.errors import ConfigError, MissingExtraError, PenstockError
from penstock.flows.verbs import VERBS
from penstock.recipe_sections import Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FIRST = datetime(2020, 1, 1)  # intervals count from here, so that a restart does not move them


class Schedule(Section):
    """When a deployment runs by itself: one of `cron`, `interval` and `rrule`."""

    cron: str | None = None
    """Five fields: minute, hour, day, month, weekday."""
    interval: str | None = None
    """A number and a unit: `90s`, `30m`, `6h`, `1d`."""
    rrule: str | None = None
    """A recurrence rule of RFC 5545, such as `FREQ=WEEKLY;BYDAY=SA;BYHOUR=4;BYMINUTE=0`."""
    timezone: str = "UTC"
    """IANA name; times of `cron` and `rrule` and the days of `interval` are of this zone, summer time included."""

    @pydantic.field_validator("interval")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9][0-9]{0,8}[smhd]", value):
            raise ValueError(f"got {value!r}, allowed a whole number and s, m, h or d, such as 6h")
        return value

    @pydantic.field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"got {value!r}, allowed an IANA name such as Europe/Berlin") from None
        return value

    @pydantic.model_validator(mode="after")
    def _one(self) -> Schedule:
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"got {' and '.join(given) or 'none'} of cron, interval and rrule, allowed exactly one")
        return self

    def prefect(self) -> Any:
        """As Prefect's ``Schedule``.

        Raises:
            ValueError: Prefect cannot read ``cron`` or ``rrule``.
        """
        from prefect import schedules

        if self.interval is not None:
            every = timedelta(seconds=int(self.interval[:-1]) * _UNITS[self.interval[-1]])
            anchor = _FIRST.replace(tzinfo=zoneinfo.ZoneInfo(self.timezone))
            return schedules.Interval(every, anchor_date=anchor, timezone=self.timezone)
        return schedules.Schedule(cron=self.cron, rrule=self.rrule, timezone=self.timezone)

    def next_times(self, number: int, start: datetime) -> list[datetime]:
        """The first ``number`` times not before ``start`` (with a time zone), as Prefect's scheduler counts them."""
        from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

        made = self.prefect()
        counted: Any
        if self.interval is not None:
            counted = IntervalSchedule(interval=made.interval, anchor_date=made.anchor_date, timezone=self.timezone)
        elif self.rrule is not None:
            counted = RRuleSchedule(rrule=self.rrule, timezone=self.timezone)
        else:
            assert self.cron is not None
            counted = CronSchedule(cron=self.cron, timezone=self.timezone)
        return list(asyncio.run(counted.get_dates(n=number, start=start)))

    def __str__(self) -> str:
        when = next(f"{n} {v}" for n, v in (("cron", self.cron), ("every", self.interval), ("rrule", self.rrule)) if v)
        return f"{when} {self.timezone}"


class Concurrency(Section):
    """Runs of one deployment at the same time."""

    limit: Annotated[int, Field(ge=1)] = 1
    collision: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    """What becomes of a run that comes while `limit` are going: it waits, or it is cancelled."""


class Entry(Section):
    """What every deployment has; the arguments of its verb come beside it."""

    name: Name
    verb: str
    description: str = ""
    schedule: Schedule | None = None
    """Without one it runs when it is triggered: in the UI, or by `prefect deployment run`."""
    tags: tuple[str, ...] = ()
    concurrency: Concurrency | None = Concurrency()
    """`null` lets any number run at once."""
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Further tries after a failure of the network, of a store, or of a folder in use, and after no other."""
    retry_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Before the first of them; twice as long before each one after it."""
    occupies: tuple[Name, ...] = ()
    """Limits of which a run takes one place each, and waits until there is one."""


@dataclass(frozen=True)
class Deployment:
    """One entry of the file; ``arguments`` are those of the verb's function."""

    entry: Any
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.entry.name)

    @property
    def verb(self) -> str:
        return str(self.entry.verb)

    def parameters(self) -> dict[str, Any]:
        """Of its flow (deployed.py), as JSON values."""
        entry = self.entry
        policy = {"retries": entry.retries, "retry_seconds": entry.retry_seconds, "occupies": list(entry.occupies)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in self.arguments.items()} | policy


@dataclass(frozen=True)
class Deployments:
    """A whole file.

    Attributes:
        at_once: runs at the same time, of all deployments together.
        limits: places of every named limit.
        later: by deployment, what it needs that is not there yet, an input that another one makes perhaps.
    """

    file: str
    deployments: tuple[Deployment, ...]
    at_once: int
    limits: Mapping[str, int]
    later: Mapping[str, str]

    @classmethod
    def load(cls, file: str | Path) -> Deployments:
        """Read a file and check all that it names.

        Raises:
            ConfigError: it cannot be read, or a key, a value, a recipe, an override or a schedule is not acceptable.
            MissingExtraError: a deployment needs a package that is not installed.
        """
        where = str(file)
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot be read ({error}); see penstock serve --example") from error
        return cls.parse(text, where)

    @classmethod
    def parse(cls, text: str, where: str = "deployments") -> Deployments:
        """Like ``load``, from YAML text."""
        try:
            value = load_yaml(text)
        except yaml.YAMLError as error:
            raise not_yaml(error, where, text) from error
        entries = value.get("deployments") if isinstance(value, dict) else None
        if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
            raise ConfigError(f"{where}: got no list of deployments, allowed as penstock serve --example shows")
        kinds = [_kind(entry, f"{where}: deployments.{number}") for number, entry in enumerate(entries)]
        whole = _whole(kinds)
        reading = Reading(where, text, value, ())
        unknown = [found for found in strange_keys(whole, value) if found[0][0] != "deployments"]
        for number, (kind, entry) in enumerate(zip(kinds, entries, strict=True)):
            unknown += strange_keys(kind, entry, ("deployments", number))
        if unknown:
            raise reading.unknown(unknown)
        try:
            read = whole.model_validate(value)
        except pydantic.ValidationError as error:
            raise reading.invalid(error) from error
        return cls._checked(where, read)

    @classmethod
    def _checked(cls, where: str, read: Any) -> Deployments:
        twice = [name for name, times in Counter(e.name for e in read.deployments).items() if times > 1]
        if twice:
            raise ConfigError(f"{where}: deployments: got {twice[0]} more than once, allowed names of their own")
        found, later = [], {}
        for entry in read.deployments:
            at = f"{where}: deployments.{entry.name}"
            missing = [name for name in entry.occupies if name not in read.limits]
            if missing:
                raise ConfigError(
                    f"{at}.occupies: got {missing[0]}, which is no limit; add it: limits: {{{missing[0]}: 1}}"
                )
            if entry.schedule is not None:
                try:
                    entry.schedule.prefect()
                except ValueError as error:
                    raise ConfigError(f"{at}.schedule: {error}") from error
            made = Deployment(entry, _arguments(entry))
            try:
                VERBS[entry.verb].steps(**made.arguments)
            except (ConfigError, MissingExtraError) as error:
                raise type(error)(f"{at}: {error}") from error
            except PenstockError as error:
                later[entry.name] = str(error)
            found.append(made)
        return cls(where, tuple(found), read.at_once, dict(read.limits), later)


def _kind(entry: Mapping[str, Any], where: str) -> type[Entry]:
    """The model of an entry: its verb's arguments beside what every entry has."""
    verb = entry.get("verb")
    if not isinstance(verb, str) or verb not in VERBS:
        raise ConfigError(f"{where}: verb: got {verb!r}, allowed {', '.join(VERBS)}")
    fields: dict[str, Any] = {}
    for argument in VERBS[verb].arguments():
        name = "set" if argument.name == "overrides" else argument.name
        type_ = tuple[str, ...] if argument.annotation == Sequence[str] else argument.annotation
        fields[name] = (type_, ... if argument.default is argument.empty else argument.default)
    return pydantic.create_model(f"{verb.capitalize()}Entry", __base__=Entry, **fields)


def _whole(kinds: Sequence[type[Entry]]) -> type[Section]:
    fields: dict[str, Any] = {
        "deployments": (tuple.__class_getitem__(tuple(kinds)), ...),
        "at_once": (Annotated[int, Field(ge=1)], 1),
        "limits": (dict[Name, Annotated[int, Field(ge=1)]], {}),
    }
    return pydantic.create_model("DeploymentsFile", __base__=Section, **fields)


def _arguments(entry: Any) -> dict[str, Any]:
    own = [name for name in type(entry).model_fields if name not in Entry.model_fields]
    return {"overrides" if name == "set" else name: getattr(entry, name) for name in own}


EXAMPLE = """\
# penstock serve FILE: what runs by itself, or when it is triggered.

at_once: 1                # runs at the same time, of all deployments together

limits:                   # places that runs take, over all deployments
  gpu: 1

deployments:
  - name: nightly         # penstock build recipes/quickstart.yaml --set … --out runs/quickstart
    verb: build           # run, build, train, refresh, generate, transform or push
    recipe: recipes/quickstart.yaml
    set: [select.omega=0.5]
    out: runs/quickstart  # always the same folder: a run makes what changed
    schedule: {cron: "0 3 * * *", timezone: Europe/Berlin}
    tags: [corpus]

  - name: weekly          # trains on what the last night built
    verb: train
    recipe: recipes/quickstart.yaml
    out: runs/quickstart
    schedule: {rrule: "FREQ=WEEKLY;BYDAY=SA;BYHOUR=6;BYMINUTE=0", timezone: Europe/Berlin}
    concurrency: {limit: 1, collision: CANCEL_NEW}   # or ENQUEUE, the default: wait
    occupies: [gpu]       # waits for its place

  - name: rounds          # a round an hour where files are new: data, a model that goes on, the better one stays
    verb: refresh
    recipe: recipes/refresh.yaml
    out: runs/refresh
    schedule: {interval: 1h}
    occupies: [gpu]

  - name: publish         # no schedule: runs when it is triggered
    verb: push
    folder: runs/quickstart
    dest: /tmp/published/quickstart
    retries: 5            # network, store and a folder in use; other failures end the run at once
    retry_seconds: 10     # then 20, 40, …

  - name: problems        # settings as those of the section `generate` of a recipe
    verb: generate
    settings: {voyage: {count: 200}}
    out: runs/problems
    schedule: {interval: 12h}
"""
