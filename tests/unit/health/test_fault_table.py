"""The page about faults names every fault of the catalogue, as it is today."""

from __future__ import annotations

from hpctrain.devcluster.faults import FAULTS
from hpctrain.health.config import CONTEXTS
from tests import fault_table


def test_the_page_has_every_fault_in_every_context() -> None:
    """A fault that is added, renamed or given to another check needs the drill to be run again (see the page's drill)."""
    page = fault_table.PAGE.read_text()
    cells = fault_table.parse(page)

    assert [(name, context) for name in FAULTS for context in CONTEXTS] == list(cells)
    assert page == fault_table.render(cells)


def test_drains_are_those_that_the_catalogue_promises() -> None:
    """What ought to take a node out of service does so wherever it is looked at, and nothing else does."""
    for (name, context), cell in fault_table.parse(fault_table.PAGE.read_text()).items():
        fault = FAULTS[name]
        assert (fault.drains and context in fault.contexts) is ("drained" in cell.outcome), (name, context)
        assert "drained" not in cell.outcome or cell.reason.startswith("hpctrain: "), name
