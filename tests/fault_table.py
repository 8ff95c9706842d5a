"""docs/health-faults.md: fault x context -> outcome, as a drill on a private cluster has seen it.

The drill (tests/cluster/test_health_faults.py) writes the page with FAULT_TABLE=write, and otherwise compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpctrain.devcluster.faults import FAULTS
from hpctrain.health.config import CONTEXTS
from tests.source_tree import ROOT

PAGE = ROOT / "docs" / "health-faults.md"
MOVED = "drained; the job runs elsewhere"
DRAINED = "drained; the job is not disturbed"
NOTED = "{level}; the job runs"
RECORDED = "recorded; the job runs"
NOTHING = "no finding; the job runs"

_HEAD = """\
# What each simulated fault leads to
<!-- Written by tests/cluster/test_health_faults.py, from what a real slurmd did; do not edit. -->

Each row is a fault of `hpctrain cluster fault NODE KIND`, each column a moment at which Slurm checks a node. The drill puts
each of them to a node of a private cluster: sixteen nodes at a time, a real slurmd each, over simulated GPUs and kernels. No
real GPU was broken for it. *Drained* means that Slurm shows the node drained with the reason in the last column; *elsewhere*
that the same job was requeued and has finished on another node; `warn` and `observe` are findings that stay in the node's
log, *recorded* is what explains the end of a job and says nothing against the node. After each cell the fault is healed as a
reboot would, the checks are clean, and `hpctrain nodes validate` has put the node back into service. A person's drain came
through all three moments with its reason and was not taken back.

In the prolog and epilog a check looks at the job's GPUs only; a check that costs much is left to the periodic look.
"""


@dataclass(frozen=True)
class Cell:
    """What one fault led to in one context.

    Attributes:
        outcome: in words, as in the page.
        reason: of the drain, or what the check said; "" for nothing.
    """

    outcome: str
    reason: str


Table = Mapping[tuple[str, str], Cell]


def render(table: Table) -> str:
    """The page; every fault must have a cell in every context."""
    lines = [
        _HEAD,
        f"| fault | what breaks | check | {' | '.join(CONTEXTS)} | reason or finding |",
        f"|---|---|---|{'---|' * len(CONTEXTS)}---|",
    ]
    for fault in FAULTS.values():
        cells = [table[fault.name, context] for context in CONTEXTS]
        reasons = dict.fromkeys(cell.reason for cell in cells if cell.reason)
        lines.append(
            f"| `{fault.name}` | {fault.group}: {fault.what} | [`{fault.check}`](health-checks.md#{fault.check}) "
            f"| {' | '.join(cell.outcome for cell in cells)} | {'<br>'.join(f'`{one}`' for one in reasons)} |"
        )
    return "\n".join([*lines, ""])


def parse(page: str) -> dict[tuple[str, str], Cell]:
    """The cells of a page; a reason that not all contexts share is that of none."""
    found = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            name, _, _, *outcomes, reasons = (cell.strip() for cell in line[1:-1].split("|"))
            for context, outcome in zip(CONTEXTS, outcomes, strict=True):
                found[name.strip("`"), context] = Cell(outcome, "" if outcome == NOTHING else reasons.strip("`"))
    return found
