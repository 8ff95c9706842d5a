"""What a site sets about health checks, from the compiled JSON that the prolog reads (pure).

A mistake in it must not stop a job: what cannot be understood keeps its default and is named in the list of problems,
which is logged at every run and which ``hpctrain health install`` refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hpctrain.health.finding import Mode
from hpctrain.health.reading import Expected
from hpctrain.health.verdict import Rules

CONTEXTS = ("prolog", "epilog", "periodic")
DEFAULT_STATE_DIR = "/var/lib/hpctrain/health"
JOURNALCTL = "/usr/bin/journalctl"
DEFAULT_CONFIG = "/etc/hpctrain/health.json"


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel shows itself; test clusters point these at files of their own. ``{node}`` is the node's name.

    Attributes:
        processes: where processes are looked up; test nodes have a /proc of their own, and processes of the real one.
        kernel_log: ``/dev/kmsg``, or a file of records in its form; ``journal`` asks journalctl.
        journalctl: its path; also asked where ``kernel_log`` cannot be read. "" for never.
        nvml: path of the NVML library; "" lets the loader find ``libnvidia-ml.so.1``.
        clock: a file ``key value`` instead of the kernel's own clock state, for tests.
    """

    proc: str = "/proc"
    processes: str = "/proc"
    sys: str = "/sys"
    kernel_log: str = "/dev/kmsg"
    journalctl: str = JOURNALCTL
    nvml: str = ""
    clock: str = ""


@dataclass(frozen=True, slots=True)
class Breaker:
    """How many drains this site permits.

    Attributes:
        directory: on a file system that all nodes share; "" means no breaker.
        slots: drains permitted before a slot is given back with a node that returns.
        timeout_s: how long a prolog waits for that file system.
        fallback: what to do without a slot or an answer: ``start`` the job and alert, or ``drain``.
    """

    directory: str = ""
    slots: int = 1
    timeout_s: float = 0.2
    fallback: str = "start"


@dataclass(frozen=True, slots=True)
class Config:
    """All of it.

    Attributes:
        drain_via: ``exit`` (a non-zero exit code alone), ``scontrol`` (reason first, then exit) or ``controller`` (leave
            the verdict for 'hpctrain nodes tend').
        gpu_scope: ``job``: a prolog looks at the job's GPUs, at none if Slurm gave it none; ``node``: always at all of them.
        scontrol, slurm_conf: absolute paths, since Slurm gives its programs no PATH; "" for Slurm's own default.
        scontrol_timeout_s: how long scontrol may take to set a drain reason; the exit code drains without it.
        budget_s: seconds per context, from the start of the interpreter to its end.
        kernel_log_age_s: events older than this are forgotten.
        settle_s: after a boot the periodic check drains nothing for so long; a prolog does, as a job is about to start.
        site_checks: ``module:NAME`` of checks that a site adds.
        copy_dirs: directories in which jobs may leave copies of training data, which the epilog removes.
        log_bytes: the event log is turned over once when it is as long as this.
        remedies: read by :func:`hpctrain.health.remedy_settings.parse_remedies` where nodes are mended.
        time_server: an NTP server (``host`` or ``host:port``) whose time the periodic check compares with ours.
    """

    state_dir: str = DEFAULT_STATE_DIR
    drain_via: str = "exit"
    gpu_scope: str = "job"
    scontrol: str = "/usr/bin/scontrol"
    slurm_conf: str = ""
    scontrol_timeout_s: float = 3.0
    budget_s: Mapping[str, float] = field(default_factory=lambda: {"prolog": 5.0, "epilog": 5.0, "periodic": 55.0})
    kernel_log_age_s: float = 24 * 3600.0
    settle_s: float = 120.0
    log_bytes: int = 4 * 2**20
    time_server: str = ""
    site_checks: tuple[str, ...] = ()
    copy_dirs: tuple[str, ...] = ("/tmp",)  # noqa: S108 - only directories with the name of the job's user and number are touched
    breaker: Breaker = Breaker()
    roots: Roots = Roots()
    expected: Expected = field(default_factory=Expected)
    rules: Rules = field(default_factory=Rules)
    remedies: Mapping[str, Any] = field(default_factory=dict)


def parse_config(document: Any) -> tuple[Config, list[str]]:
    """The configuration and what is wrong with it, one sentence per mistake."""
    if not isinstance(document, dict):
        return Config(), [f"the configuration is a {type(document).__name__}, not an object"]
    problems: list[str] = []
    known = {item.name for item in fields(Config)} - {"rules"} | {"version", "modes", "limits"}
    problems += [f"unknown key '{key}'" for key in document if key not in known]
    values: dict[str, Any] = _simple(Config, document, "", problems)
    budgets = Config().budget_s
    values["budget_s"] = {**budgets, **_numbers(document.get("budget_s"), "budget_s", problems, set(budgets))}
    values["breaker"] = Breaker(**_simple(Breaker, _section(document, "breaker", problems), "breaker.", problems))
    values["roots"] = Roots(**_simple(Roots, _section(document, "roots", problems), "roots.", problems))
    values["expected"] = _expected(_section(document, "expected", problems), problems)
    values["remedies"] = _section(document, "remedies", problems)
    values["rules"] = Rules(_modes(document, problems), _limits(document, problems))
    return Config(**values), problems


def _section(document: Mapping[str, Any], name: str, problems: list[str]) -> Mapping[str, Any]:
    value = document.get(name, {})
    if isinstance(value, dict):
        return value
    problems.append(f"'{name}' is a {type(value).__name__}, not an object")
    return {}


_CHOICES = {
    "drain_via": ("exit", "scontrol", "controller"),
    "gpu_scope": ("job", "node"),
    "breaker.fallback": ("start", "drain"),
}


def _simple(cls: Any, document: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    """The texts, numbers and lists of texts of a dataclass, each of the type of its default."""
    default, found = cls(), {}
    for item in fields(cls):
        if item.name not in document:
            continue
        old, value, name = getattr(default, item.name), document[item.name], f"{prefix}{item.name}"
        if isinstance(old, str | int | float | tuple):
            ok = _fits(old, value) and value in _CHOICES.get(name, (value,))
            if ok:
                found[item.name] = tuple(value) if isinstance(old, tuple) else type(old)(value)
            else:
                problems.append(f"'{name}' cannot be {value!r}; it stays {old!r}")
    return found


def _fits(old: object, value: object) -> bool:
    if isinstance(old, str):
        return isinstance(value, str)
    if isinstance(old, tuple):
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def _numbers(value: Any, name: str, problems: list[str], known: set[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, number in value.items() if isinstance(value, dict) else ():
        if key in known and _fits(0.0, number):
            found[key] = float(number)
        else:
            problems.append(f"'{name}.{key}' cannot be {number!r}")
    return found


def _modes(document: Mapping[str, Any], problems: list[str]) -> dict[str, Mode]:
    found = {}
    for check, word in _section(document, "modes", problems).items():
        try:
            found[check] = Mode[str(word).upper()]
        except KeyError:
            problems.append(f"'modes.{check}' cannot be {word!r}; it is off, observe, warn or drain")
    return found


def _limits(document: Mapping[str, Any], problems: list[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for check, values in _section(document, "limits", problems).items():
        if not isinstance(values, dict):
            problems.append(f"'limits.{check}' is not an object of numbers")
            continue
        found[check] = _numbers(values, f"limits.{check}", problems, set(values))
    return found


def _expected(document: Mapping[str, Any], problems: list[str]) -> Expected:
    kinds: dict[str, tuple[type, ...]] = {
        "mounts": (dict,),
        "versions": (dict,),
        "services": (list,),
        "modules": (list,),
        "interfaces": (list,),
        "gpu_name": (str,),
        "persistence": (bool,),
        "ecc": (bool,),
        "mig": (bool,),
        "ib_rate_gbps": (int, float),
    }
    found: dict[str, Any] = {}
    names = {item.name for item in fields(Expected)}
    for key, value in document.items():
        wanted = kinds.get(key, (int,))
        if key not in names:
            problems.append(f"unknown key 'expected.{key}'")
        elif not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            problems.append(f"'expected.{key}' cannot be {value!r}")
        elif isinstance(value, dict | list) and not all(isinstance(one, str) for one in _texts(value)):
            problems.append(f"'expected.{key}' may hold texts only")
        else:
            found[key] = tuple(value) if isinstance(value, list) else value
    return Expected(**found)


def _texts(value: dict[str, Any] | list[Any]) -> list[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value
