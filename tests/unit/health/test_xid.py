"""The Xid policy: who is trusted, who is a victim, whose fault it is."""

from __future__ import annotations

import pytest

from hpctrain.errors import NotFoundError
from hpctrain.health.explain import explain
from hpctrain.health.finding import Action, Blame
from hpctrain.health.gpu import Gpu
from hpctrain.health.kernel_log import Record, classify
from hpctrain.health.reading import KernelEvent
from hpctrain.health.registry import load_checks
from hpctrain.health.xid import Decision, decide
from hpctrain.health.xid_table import XIDS

BUS = "0000:3b:00"
NEW = "580.65.06"


def lines(*texts: str, at: float = 100.0, bus: str = BUS) -> list[KernelEvent]:
    events = [
        classify(Record(number, at + number, f"NVRM: Xid (PCI:{bus}): {text}"), 0.0) for number, text in enumerate(texts)
    ]
    assert None not in events
    return [event for event in events if event]


def gpu(**values: float) -> Gpu:
    return Gpu(0, "GPU-0", f"{BUS}.0", values)


def only(events: list[KernelEvent], *gpus: Gpu, driver: str = NEW) -> Decision:
    (decision,) = decide(events, gpus, driver)
    return decision


@pytest.mark.parametrize(
    ("text", "action", "blame"),
    [
        ("13, pid=1, name=python, Graphics SM Warp Exception on (GPC 0, TPC 1, SM 0)", Action.APP, Blame.USER),
        ("31, pid=1, name=python, Ch 00000008, intr 00000000. MMU Fault", Action.APP, Blame.USER),
        ("43, pid=1, name=python, Ch 00000008", Action.NONE, Blame.USER),
        ("48, pid='<unknown>', name=<unknown>, DBE", Action.RESET, Blame.NODE),
        ("54, pid='<unknown>'", Action.INSPECT, Blame.NODE),
        ("63, pid='<unknown>', Row Remapper: New row", Action.NONE, Blame.NODE),
        ("79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", Action.REBOOT, Blame.NODE),
        ("94, pid=1, name=python, Contained", Action.APP, Blame.NODE),
        ("95, pid=1, name=python, Uncontained", Action.RESET, Blame.NODE),
        ("119, pid=1, name=python, Timeout after 6s of waiting for RPC response from GPU0 GSP!", Action.RESET, Blame.NODE),
        ("128, pid=1, name=python", Action.APP, Blame.USER),
        ("500, something new", Action.INSPECT, Blame.UNCLEAR),
        ("144, SAW_MVB Nonfatal XC0 i0 Link 03 (0x00000001 0x00000004 0x0 0x0)", Action.NONE, Blame.NODE),
        ("144, SAW_MVB Nonfatal XC0 i0 Link 03 (0x00000001 0x00000002 0x0 0x0)", Action.RESET, Blame.NODE),
        ("145, RLW_REMAP Nonfatal XC0 i0 Link 03 (0x00000004 0x00000004 0x0 0x0)", Action.APP, Blame.NODE),
        ("147, TREX Nonfatal XC0 i0 Link 03 (0x0 0x1 0x0)", Action.NONE, Blame.NODE),
        ("149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x0 0x0 0x0 0x0 0x0)", Action.RESET, Blame.NODE),
        ("149, NETIR_LINK_EVT Fatal XC 1 i 2 Link 01 [0x0000000a]", Action.RESET, Blame.NODE),
        ("150, MSE_WATCHDOG Nonfatal XC0 i0 Link 00 (0x0 0x1)", Action.RESET, Blame.NODE),
        ("74, pid='<unknown>', NVLink: fatal error detected on link 0(0x100, 0x0, 0x0, 0x0)", Action.INSPECT, Blame.NODE),
        ("74, pid='<unknown>', NVLink: fatal error detected on link 0(0x1, 0x0, 0x0, 0x0)", Action.NONE, Blame.NODE),
        ("74, pid='<unknown>', NVLink: fatal error detected on link 0(0x10, 0x0, 0x0, 0x0)", Action.RESET, Blame.NODE),
    ],
)
def test_a_line_alone(text: str, action: Action, blame: Blame) -> None:
    """What the table says of one line, with its sub-codes, where nothing else is known."""
    decision = only(lines(text), driver="")

    assert (action, blame) == (decision.action, decision.blame)


def test_the_driver_is_trusted_before_the_log() -> None:
    """A recovery action of the driver beats an Xid 154 and the table."""
    events = lines("48, DBE", "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)")

    decision = only(events, gpu(recovery_action=2))

    assert (Action.REBOOT, "recovery_action") == (decision.action, decision.rule)


def test_a_driver_that_asks_for_nothing_settles_a_fault() -> None:
    """After a reset by anybody the recovery action is 'none', and the old lines no longer count."""
    assert Action.NONE is only(lines("48, DBE"), gpu(recovery_action=0)).action


@pytest.mark.parametrize(
    ("text", "driver"), [("119, GSP", NEW), ("140, ECC", NEW), ("48, DBE", "550.54.15"), ("109, CTXSW", "565.10")]
)
def test_a_driver_does_not_settle_what_it_does_not_know(text: str, driver: str) -> None:
    """Numbers that this driver does not link to its recovery action are decided by the table."""
    assert Action.RESET is only(lines(text), gpu(recovery_action=0), driver=driver).action


def test_an_xid_154_beats_the_table() -> None:
    """Without the field, the log's own record of the recovery action decides."""
    events = lines(
        "13, a program's mistake", "154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
    )

    decision = only(events)

    assert (Action.REBOOT, "xid_154", (13, 154)) == (decision.action, decision.rule, decision.numbers)


@pytest.mark.parametrize(("flag", "rule"), [("remap_failed", "remap_failed"), ("sram_threshold_exceeded", "sram_threshold")])
def test_a_hard_flag_beats_the_table(flag: str, rule: str) -> None:
    """A memory that cannot be mended is replaced, not reset again and again."""
    decision = only(lines("48, DBE"), gpu(**{flag: 1}))

    assert (Action.REPLACE, rule) == (decision.action, decision.rule)


def test_a_clean_up_is_the_victim_of_another_error() -> None:
    """45 beside 95 names 95 as the root; alone it asks for nothing."""
    both = only(lines("45, pid=1, name=python, Ch 00000008", "95, pid=1, name=python, Uncontained"))

    assert (Action.RESET, 95) == (both.action, both.numbers[0])
    assert Action.NONE is only(lines("45, pid=1, name=python, Ch 00000008")).action


def test_the_root_of_several_errors_is_the_worst() -> None:
    """One GPU gets one decision: fallen off the bus explains the GSP timeout before it."""
    decision = only(lines("119, GSP", "79, GPU has fallen off the bus.", "45, Ch 1"))

    assert (Action.REBOOT, (79, 45, 119)) == (decision.action, decision.numbers)


def test_a_switch_is_the_cause_of_link_errors() -> None:
    """A fatal SXid at the same time makes GPUs with Xid 74 victims."""
    switch = classify(
        Record(1, 101.0, "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"), 0.0
    )
    assert switch is not None

    decision = only([*lines("74, NVLink: fatal error detected on link 3(0x200000, 0x0, 0x0, 0x0)"), switch])

    assert (Action.NONE, "switch") == (decision.action, decision.rule)


def test_many_programs_failing_on_one_gpu_is_the_gpu() -> None:
    """31 from three programs on one GPU goes to a person; on two GPUs it is the program again."""
    faults = lines(*(f"31, pid={pid}, name=python, MMU Fault" for pid in (1, 2, 3)))
    elsewhere = lines("31, pid=4, name=python, MMU Fault", bus="0000:4c:00")

    assert (Action.INSPECT, Blame.UNCLEAR) == (only(faults).action, only(faults).blame)
    assert {Blame.USER} == {decision.blame for decision in decide([*faults, *elsewhere])}


def test_every_number_has_words_and_a_known_source() -> None:
    """The table is complete in form, and reset or reboot never blames the user."""
    for number, entry in XIDS.items():
        assert number == entry.number
        assert entry.title
        assert set(entry.sources) <= set("NFGSDCAZ")
        assert entry.action not in (Action.RESET, Action.REBOOT) or entry.blame is Blame.NODE, number


def test_explain_answers_like_a_colleague() -> None:
    """The answer says what it is, whose fault, what we do, what to do when it comes again, and who says so."""
    answer = explain(("xid", "79"), ())

    for words in ("fallen off the bus", "node's fault", "drain", "second time", "Sources: NVIDIA"):
        assert words in answer
    assert "not know" in explain(("xid", "999"), ())
    assert "switch" in explain(("sxid", "20034"), ()).lower()
    assert "Known false alarms" in explain(("gpu_ecc",), load_checks())
    assert "fatal on link 01" in explain(
        ("NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 01 (0x1 0x0)",), ()
    )


@pytest.mark.parametrize("number", XIDS)
def test_every_number_can_be_explained(number: int) -> None:
    """No number of the table makes explain fail."""
    assert f"Xid {number}: " in explain(("xid", str(number)), ())


def test_explain_refuses_what_it_does_not_know() -> None:
    """Anything else is refused with what can be asked."""
    with pytest.raises(NotFoundError) as caught:
        explain(("weather",), load_checks())

    assert "xid NUMBER" in caught.value.advice
