"""A study's settings: what identifies it, what may change between runs, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from personaagent.datasets.lamp.official import check_split
from personaagent.datasets.logs import LOGS
from personaagent.datasets.registry import SAMPLE_USERS
from personaagent.datasets.selection import Selection
from personaagent.experiments.harness.cells import Axes
from personaagent.experiments.harness.methods.registry import PERSONA_AGENT
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.secrets import masked, refuse_secret
from personaagent.experiments.harness.subjects import ALL
from personaagent.programs.baselines.forgetting import CLOCKS, CURVES, Clock, Curve
from personaagent.programs.baselines.memory_bank import DATES
from personaagent.programs.errors import InputError
from personaagent.programs.lm.make import OFFLINE
from personaagent.programs.lm.replay import PREFIX, Replay

CONTROLS = ("none", "swap", "matrix", "equal-cost")
DEFAULT_TRACKING = "sqlite:///runs/mlflow.db"


@dataclass(frozen=True)
class StudyOptions:
    """Everything a script was asked for. `identity` is what two runs under one OUT must share.

    Raises:
        InputError: on a value out of range, settings that exclude each other, or a password in an address.
    """

    script: str
    tasks: tuple[str, ...]
    axes: Axes
    seeds: tuple[int, ...]
    data: Path | None
    users: int
    queries_per_user: int | None
    profile: bool
    wikipedia: str
    control: Literal["none", "swap", "matrix", "equal-cost"]
    prompts: Prompts
    data_seed: int
    lm: str
    """Model strings, comma-separated: an axis."""
    api_base: str | None
    align_lm: str | None
    """None: the same as `lm`."""
    align_api_base: str | None
    temperature: float
    timeout_seconds: float
    workers: int
    max_calls: int | None
    out: Path | None
    tracking: str
    trace_samples: int
    grid: bool = False
    search: int | None = None
    retry_failed: bool = False
    dry_run: bool = False
    split: str = "dev"
    """Of LaMP's official layout."""
    users_by: Literal["active", "random"] = "active"
    columns: Mapping[str, str] | None = None
    """{role: column} of `logs`."""
    labels: tuple[str, ...] = ()
    """Of `logs`."""
    methods: tuple[str, ...] = (PERSONA_AGENT,)
    """Names in `METHODS`, in the order asked."""
    histories: tuple[str, ...] = (ALL,)
    """Values of the axis `history`: how many of the newest interactions are kept, or all."""
    walk_forward: int | None = None
    """So many of each user's newest interactions are asked about, in place of the queries."""
    queries_by_task: Mapping[str, int | None] = field(default_factory=dict)
    """Where it is not `queries_per_user`."""
    memory_bank_dates: int = DATES
    memory_bank_curve: Curve = "paper"
    memory_bank_clock: Clock = "items"
    replay: Replay | None = field(default=None, compare=False)
    """The recording that answers in place of the LMs; they keep their names."""
    record: Path | None = None
    """Where LM calls are recorded."""
    rescore: bool = False
    """Ask nothing: score what OUT holds."""
    command: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--users", self.users, 1),
            ("--queries-per-user", self.queries_per_user, 1),
            ("--workers", self.workers, 1),
            ("--max-calls", self.max_calls, 0),
            ("--trace-samples", self.trace_samples, 0),
            ("--search", self.search, 1),
            ("--walk-forward", self.walk_forward, 1),
            ("--memory-bank-dates", self.memory_bank_dates, 0),
        ):
            if value is not None and value < least:
                raise InputError(f"{option} must be at least {least} but got {value}")
        check_split(self.split)
        if self.users_by not in ("active", "random"):
            raise InputError(f"--users-by must be active or random, but got {self.users_by!r}")
        if (self.columns or self.labels) and LOGS not in self.tasks:
            raise InputError("--columns and --labels are of --tasks logs: the LaMP tasks have their own")
        if not 0 <= self.temperature <= 2:
            raise InputError(f"--temperature must be from 0 to 2 but got {self.temperature}")
        if not 0 < self.timeout_seconds < math.inf:
            raise InputError(f"--timeout-seconds must be above 0 and finite, but got {self.timeout_seconds}")
        if self.control not in CONTROLS:
            raise InputError(f"--control must be one of {', '.join(CONTROLS)}, but got {self.control!r}")
        for option, choice, choices in (
            ("--memory-bank-curve", self.memory_bank_curve, CURVES),
            ("--memory-bank-clock", self.memory_bank_clock, CLOCKS),
        ):
            if choice not in choices:
                raise InputError(f"{option} must be {' or '.join(choices)}, but got {choice!r}")
        if self.walk_forward is not None and self.control in ("swap", "matrix"):
            raise InputError(
                f"--walk-forward and --control {self.control} exclude each other: another user's memory has another "
                f"time line"
            )
        if self.control in ("matrix", "equal-cost") and PERSONA_AGENT not in self.methods:
            raise InputError(f"--control {self.control} is of {PERSONA_AGENT}: add it to --methods")
        if self.control == "equal-cost" and not (any(self.axes.batch_sizes) and any(self.axes.iterations)):
            raise InputError("--control equal-cost spends alignment's LM calls, but with n=0 or E=0 there are none")
        if self.replay is not None and self.record is not None:
            raise InputError("--record and --lm replay:FILE exclude each other: a replay asks no LM")
        if self.rescore and (self.dry_run or self.retry_failed or self.search is not None or self.record is not None):
            raise InputError("--rescore asks nothing: drop --dry-run, --retry-failed, --search and --record")
        if self.search is not None and self.methods != (PERSONA_AGENT,):
            raise InputError(f"--search chooses cells of {PERSONA_AGENT} alone: drop --methods, or --search")
        if self.search is not None and self.control in ("matrix", "equal-cost"):
            raise InputError(
                f"--search and --control {self.control} exclude each other: a search adds no rows to its own"
            )
        if self.wikipedia not in ("on", "off") and not re.match(r"https?://[^\s/?#]", self.wikipedia):
            raise InputError(f"--wikipedia must be on, off or the URL of a MediaWiki API, but got {self.wikipedia!r}")
        _check_names("--lm", self.lm)
        if self.align_lm is not None:
            _check_names("--align-lm", self.align_lm)
            if "," in self.align_lm:
                raise InputError(f"--align-lm must be one LM, but got {self.align_lm!r}")
        addresses = {"--lm": self.lm, "--align-lm": self.align_lm}
        addresses |= {"--api-base": self.api_base, "--align-api-base": self.align_api_base}
        for option, address in addresses.items():
            refuse_secret(option, address)
        if self.profile and "{profile}" not in self.prompts.persona:
            raise InputError(
                "the persona of --prompts has no {profile}, so the profile would be lost: put {profile} where the "
                "user's summary belongs, or give --profile off"
            )
        if self.grid and self.search is not None:
            raise InputError("--grid and --search exclude each other: a grid is every cell, a search chooses some")
        if self.align_api_base and not self.align_lm:
            raise InputError("--align-api-base needs --align-lm: without it, the alignment uses --lm and --api-base")

    @property
    def lms(self) -> tuple[str, ...]:
        """The model strings."""
        return tuple(dict.fromkeys(part.strip() for part in self.lm.split(",")))

    def selection(self, task: str) -> Selection:
        """The users and queries of a task."""
        queries = self.queries_by_task.get(task, self.queries_per_user)
        return Selection(self.users, queries, self.users_by, self.data_seed)

    @property
    def recorded(self) -> dict[str, Any]:
        """What a recording says of the study that it is of: all that a replay has to take over."""
        names = ("lm", "api_base", "align_lm", "align_api_base", "temperature")
        return {**{name: getattr(self, name) for name in names}, "wikipedia": masked(self.wikipedia)}

    @property
    def align_endpoint(self) -> str | None:
        return self.align_api_base if self.align_lm else self.api_base

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that are neither axis nor operational, without what is read from files."""
        return {
            "script": self.script,
            "users": self.users,
            "queries_per_user": self.queries_per_user,
            "profile": _on_off(self.profile),
            "wikipedia": masked(self.wikipedia),
            # The others add rows or files, and change none.
            "control": "swap" if self.control == "swap" else "none",
            "prompts": self.prompts.name,
            "prompt texts": self.prompts.digest,
            "data_seed": self.data_seed,
            "split": self.split,
            "users_by": self.users_by,
            "columns": dict(sorted((self.columns or {}).items())),
            "labels": list(self.labels),
            "align_lm": self.align_lm or "as --lm",
            "api_base": self.api_base,
            "align_api_base": self.align_api_base,
            "temperature": self.temperature,
            "queries_by_task": dict(sorted(self.queries_by_task.items())),
            "walk_forward": self.walk_forward,
            "memory_bank_dates": self.memory_bank_dates,
            "memory_bank_curve": self.memory_bank_curve,
            "memory_bank_clock": self.memory_bank_clock,
        }

    @property
    def out_folder(self) -> Path:
        """`--out`, or `runs/SCRIPT-` and 8 hex digits of the digest of the settings."""
        if self.out is not None:
            return self.out
        source = str(self.data.resolve()) if self.data else SAMPLE_USERS
        # What came later counts where it is used: the folders of earlier versions are found again.
        later: dict[str, Any] = {"queries_by_task": {}, "walk_forward": None, "memory_bank_dates": DATES}
        later |= {"memory_bank_curve": "paper", "memory_bank_clock": "items"}
        named = {name: value for name, value in self.identity.items() if later.get(name, self) != value}
        text = json.dumps({**named, "data": source}, sort_keys=True)
        return Path("runs") / f"{self.script}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def constant_columns(self) -> dict[str, Any]:
        """The key columns of results.csv that are no axis."""
        return {
            "profile": _on_off(self.profile),
            "wikipedia": "off" if self.wikipedia == "off" else "on",
            "control": self.identity["control"],
            "temperature": self.temperature,
            "prompts": self.prompts.name,
        }


def lm_title(model: str) -> str:
    return "offline reader (not an LLM)" if model == OFFLINE else model


def differing(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The settings in which two runs differ, a line each; those that only one of them has do not count."""
    return [
        f"  {name}: {_short(stored[name])} there, {_short(given[name])} now"
        for name in stored
        if name in given and stored[name] != given[name]
    ]


def _check_names(option: str, names: str) -> None:
    """See that model strings are neither empty nor recordings."""
    for name in (name.strip() for name in names.split(",")):
        if not name:
            raise InputError(f"{option} {names!r}: an LM's name is empty")
        if name.startswith(PREFIX):
            raise InputError(f"{option} {names!r}: a recording answers for all LMs: give --lm {PREFIX}FILE alone")


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def shortened(value: Any) -> Any:
    """A value as it is shown: of a digest the first digits are enough."""
    is_digest = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return f"{value[:12]}…" if is_digest else value


def _short(value: Any) -> str:
    short = shortened(value)
    return short if short is not value else repr(value)
