"""What each Xid and SXid means and what it asks for, with the sources (pure: data).

Sources, by the letters used below:

- N: NVIDIA, Xid catalogue (docs.nvidia.com/deploy/xid-errors), state of 2025-10-29; the column "immediate action".
- F: NVIDIA, fabric manager user guide, appendix on SXids.
- G: leptonai/gpud; S: NVIDIA/NVSentinel; D: NVIDIA/DCGM; C: facebookresearch/gcm; A: AWS HyperPod; Z: Azure health checks.

Where they disagree, the note says so and what we do. A number that is not listed is new to us: it is reported as a warning
for a person (:data:`UNLISTED`), and never drains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpctrain.health.finding import Action, Blame


@dataclass(frozen=True, slots=True)
class Entry:
    """One number.

    Attributes:
        action: what to do about one such event with no other around it.
        linked: drivers that have a recovery action (R565 and later) take this number into account in it, so that
            "none" from the driver means that nothing has to be done; the version from which on they do.
        note: what else a colleague would tell.
    """

    number: int
    title: str
    action: Action
    blame: Blame = Blame.NODE
    note: str = ""
    sources: str = "N"
    linked: int = 565


NEVER_LINKED = 10_000
"""No driver links this number to the recovery action."""


APP, NONE, RESET, REBOOT, INSPECT = Action.APP, Action.NONE, Action.RESET, Action.REBOOT, Action.INSPECT
USER = Blame.USER

_LISTED: tuple[Entry, ...] = (
    Entry(8, "the GPU stopped processing a channel", APP, USER),
    Entry(11, "damaged or invalid commands in a push buffer", APP, USER),
    Entry(
        13,
        "an exception in the compute engine, such as an illegal address or instruction in a kernel",
        APP,
        USER,
        "Nearly always a bug in the program. The same GPC and TPC in the lines of different programs means "
        "hardware: run a "
        "field diagnostic.",
        "NSC",
    ),
    Entry(14, "an error that the catalogue only asks to watch", NONE),
    Entry(25, "invalid commands in a push buffer", APP, USER),
    Entry(
        31,
        "a page fault: a kernel touched memory it does not have",
        APP,
        USER,
        "On several GPUs it is the program. On one GPU only, from different programs, it is the GPU.",
        "NSC",
    ),
    Entry(
        32,
        "damaged commands in a push buffer",
        APP,
        USER,
        "May also be a poor PCIe link, if pcie errors go with it.",
        "ND",
    ),
    Entry(37, "firmware met a method it does not have", NONE, USER),
    Entry(38, "the driver's firmware timed out", NONE),
    Entry(
        43,
        "a channel was reset because the program did something wrong",
        NONE,
        USER,
        "Follows another error of the same program, which says more.",
        "NDC",
    ),
    Entry(44, "a fault while contexts were switched", NONE, USER),
    Entry(
        45,
        "a program's channels were cleaned up after another error, or because it was killed",
        NONE,
        USER,
        "With another Xid on the same GPU it is a victim of that one. Alone and again and again: restart the "
        "fabric manager.",
        "NSC",
    ),
    Entry(46, "the GPU stopped processing", RESET),
    Entry(
        48,
        "an uncorrectable memory error (two bits)",
        RESET,
        Blame.NODE,
        "With 63 or 64 a row is remapped by the reset. If the SRAM threshold flag is set the GPU is to be replaced.",
        "NSDGZ",
    ),
    Entry(54, "the auxiliary power cable is not connected", INSPECT, Blame.NODE, "A person has to look inside.", "N"),
    Entry(60, "an exception of the video processor", APP, USER),
    Entry(62, "a microcontroller of the GPU halted", RESET),
    Entry(
        63,
        "a row remapping or page retirement was recorded",
        NONE,
        Blame.NODE,
        "NVIDIA, GCM and AWS ignore it, Azure drains, gpud reboots. We ignore the line and let the pending flag of "
        "gpu_row_remap decide, which is what it is about.",
        "NSCAGZ",
    ),
    Entry(
        64,
        "a row remapping or page retirement could not be recorded",
        RESET,
        Blame.NODE,
        "If it comes again after the reset, replace the GPU.",
        "NSDAZ",
    ),
    Entry(66, "the driver made an illegal access", NONE),
    Entry(67, "the driver made an illegal access", NONE),
    Entry(69, "an invalid class or method for the compute engine", APP, USER),
    Entry(
        74,
        "an error of an NVLink",
        RESET,
        Blame.NODE,
        "With an SXid at the same time the switch is the cause and the GPU its victim. The registers in the "
        "line say more: "
        "see 'explain xid 74' with the bits.",
        "NSDAZ",
    ),
    Entry(78, "a virtual GPU could not start", Action.CONFIGURE, Blame.NODE, "Update driver and firmware."),
    Entry(
        79,
        "the GPU has fallen off the bus",
        REBOOT,
        Blame.NODE,
        "The GPU no longer answers on PCI Express: heat, power, a bad contact or a dead GPU. A second time "
        "on the same GPU: "
        "reseat it, look at its power, replace it.",
        "NSDGCZ",
        NEVER_LINKED,
    ),
    Entry(80, "damaged data was sent to the GPU", APP, USER, "Look at the PCIe link if it comes again.", "NZ"),
    Entry(
        92,
        "many single-bit memory errors",
        NONE,
        Blame.NODE,
        "NVIDIA ignores it, Azure and others fail. We ignore the line and let gpu_ecc_rate measure.",
        "NZ",
        NEVER_LINKED,
    ),
    Entry(93, "the InfoROM is written to too often", NONE),
    Entry(
        94,
        "an uncorrectable memory error that hit one program only",
        APP,
        Blame.NODE,
        "Restart the program; the GPU can be used on, and is reset when it is convenient. gpu_row_remap then "
        "shows 'pending'.",
        "NDG",
    ),
    Entry(
        95,
        "an uncorrectable memory error that may have hit every program",
        RESET,
        Blame.NODE,
        "Everything on that GPU is to be ended before the reset. On an A100 with MIG off a reboot is the safer way.",
        "NSDA",
    ),
    Entry(106, "a test message", NONE),
    Entry(107, "a test message", NONE),
    Entry(108, "an error translating an address of another GPU", NONE),
    Entry(
        109,
        "a context switch timed out",
        RESET,
        Blame.NODE,
        "GCM takes it as harmless. NVIDIA asks for a reset; drivers from R570 on say in the recovery action whether.",
        "NSC",
        570,
    ),
    Entry(110, "a security fault", RESET),
    Entry(
        119,
        "the GPU's system processor (GSP) did not answer",
        RESET,
        Blame.NODE,
        "The driver does not link it to the recovery action, so the table decides. If it comes often, update "
        "driver and GSP firmware.",
        "NSDZ",
        NEVER_LINKED,
    ),
    Entry(120, "an error of the GPU's system processor (GSP)", RESET, Blame.NODE, "As 119.", "NSDZ"),
    Entry(121, "a corrected error of the link between CPU and GPU", NONE, Blame.NODE, "", "N", NEVER_LINKED),
    Entry(136, "an NVLink could not be trained", RESET, Blame.NODE, "Look at cable and baseboard if it comes again."),
    Entry(
        137,
        "a privilege error over NVLink",
        NONE,
        USER,
        "A program touched memory of another GPU which is gone; look there.",
    ),
    Entry(140, "an uncorrected memory error that could not be handled", RESET, Blame.NODE, "", "ND", NEVER_LINKED),
    Entry(141, "an error in a fast path of CUDA", NONE),
    Entry(142, "an exception of the video encoder", APP, USER),
    Entry(143, "the GPU could not be initialised", RESET, Blame.NODE, "", "N", 575),
    *(
        Entry(
            number,
            f"an NVLink error (unit {unit})",
            NONE,
            Blame.NODE,
            "Unit, severity and status in the line decide: see the sub-codes.",
            "NA",
        )
        for number, unit in (
            (144, "SAW"),
            (145, "RLW"),
            (146, "TLW"),
            (147, "TREX"),
            (148, "NVLPW_CTRL"),
            (149, "NETIR"),
        )
    ),
    Entry(150, "an NVLink error (unit MSE)", RESET, Blame.NODE, "", "NA"),
    Entry(151, "a key rotation failed", REBOOT, Blame.NODE, "Confidential computing; restart the virtual machine."),
    Entry(152, "a memory fault of the deep learning accelerator", NONE),
    Entry(153, "the deep learning accelerator timed out", NONE),
    Entry(
        154,
        "the recovery action of the GPU has changed",
        NONE,
        Blame.NODE,
        "Not a fault of its own: it says what the driver wants done about another. We follow it.",
        "NS",
    ),
    Entry(155, "an NVLink error that software defined", RESET),
    Entry(156, "a part of the GPU was retired", RESET),
    Entry(157, "a part of the GPU could not be retired", NONE, Blame.NODE, "Ask NVIDIA's support."),
    Entry(158, "a fatal timeout", RESET),
    Entry(159, "an error between CPU and GPU (CHI)", RESET, Blame.NODE, "Only if UVM is in use."),
    Entry(160, "a memory channel was retired", NONE, Blame.NODE, "", "N", 575),
    Entry(161, "a memory channel could not be retired", NONE, Blame.NODE, "", "N", 575),
    Entry(162, "power smoothing works again", NONE),
    Entry(163, "power smoothing is off", NONE),
    Entry(164, "power smoothing is near the end of its life", NONE),
    Entry(165, "power smoothing is at the end of its life", NONE),
    Entry(
        167,
        "a fatal timeout on PCI Express",
        REBOOT,
        Blame.NODE,
        "The catalogue has no action yet; we take it as 79.",
        "G",
        NEVER_LINKED,
    ),
    Entry(
        168,
        "errors in the write-protected region of the memory",
        REBOOT,
        Blame.NODE,
        "The catalogue has no action yet; AWS reboots.",
        "A",
        NEVER_LINKED,
    ),
    Entry(
        169,
        "a microcontroller of the GPU halted",
        RESET,
        Blame.NODE,
        "The catalogue has no action yet; we take it as 62.",
        "N",
        NEVER_LINKED,
    ),
    Entry(170, "more about a fault of confidential computing", NONE),
    Entry(171, "more about a 48: the error was in the HBM", NONE),
    Entry(172, "more about a 48: the error was in an SRAM", NONE),
    Entry(173, "a fatal error of the link between CPU and GPU", REBOOT, Blame.NODE, "", "G", NEVER_LINKED),
)
_ENGINES: Mapping[str, tuple[int, ...]] = {
    "copy engine": (39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)),
    "video decoder": (68, 83, 84, 88, 89, 96, 97, 98),
    "JPEG decoder": (82, *range(99, 106)),
    "optical flow engine": (86, 139),
}

XIDS: Mapping[int, Entry] = {
    **{entry.number: entry for entry in _LISTED},
    **{
        number: Entry(number, f"an exception of a {engine}", APP, USER)
        for engine, numbers in _ENGINES.items()
        for number in numbers
    },
}
UNLISTED = Entry(
    0,
    "a number that this version of hpctrain does not know, or that NVIDIA reserves",
    Action.INSPECT,
    Blame.UNCLEAR,
    "Look it up in NVIDIA's catalogue; ask their support if the job failed at that time.",
    "-",
    NEVER_LINKED,
)

NVLINK5 = range(144, 150)
NVLINK5_FATAL: Mapping[str, int] = {
    "SAW_MVB": 0x12,
    "RLW_REMAP": 0xC0,
    "RLW_RSPCOL": 0x2,
    "RLW_SRC_TRACK": 0x31,
    "RLW_TAGSTATE": 0x120002,
    "TLW_CTRL": 0x4,
    "TLW_RX": 0x4,
    "TLW_RX_PIPE0": 0x4,
    "TLW_RX_PIPE1": 0x4,
    "TLW_TX": 0x4,
    "TLW_TX_PIPE0": 0x4,
    "TLW_TX_PIPE1": 0x4,
}
"""Unit -> bits of the status word that need a reset of the GPU (N, sheet "Xid 144-150 decode")."""
NVLINK5_ASK_154: Mapping[str, int] = {"RLW_REMAP": 0x3F, "RLW_SRC_TRACK": 0xC}
"""Unit -> bits for which the Xid 154 that follows decides; without one the program crashed and the GPU is fine (N)."""

NVLINK4_BITS: Mapping[int, tuple[Action, str]] = {
    **dict.fromkeys((0, 23, 30), (Action.NONE, "no fault")),
    **dict.fromkeys((1, 20), (Action.NONE, "the other end of the link has the fault")),
    **dict.fromkeys((4, 5), (Action.RESET, "an ECC or parity error; twice on one link is hardware")),
    **dict.fromkeys((8, 9, 12, 16, 17, 24, 28), (Action.INSPECT, "a hardware fault: reseat the board")),
    **dict.fromkeys((21, 22), (Action.RESET, "poor signals on the link")),
    **dict.fromkeys((27, 29), (Action.RESET, "a fault of the link's protocol; look at it if it comes again")),
}
"""Bit of the first register of an Xid 74 on Hopper -> what it means (N, S)."""

SXID_TITLES: Mapping[int, str] = {
    11001: "an invalid destination",
    11012: "a single-bit error, corrected",
    12001: "an invalid route",
    12028: "a privilege error on an egress port",
    14017: "a fatal error of a link's transaction layer",
    19077: "a timeout on a link that sends",
    20001: "a packet was sent again",
    20009: "many short errors on a link",
    20012: "a link went into recovery",
    20034: "a link went down (LTSSM fault up)",
    22003: "an address was translated wrongly",
    22013: "a minion error",
    24004: "a source tracking error",
    24007: "a source tracking timeout",
    28002: "a thermal warning ended",
    28006: "a timeout of the multicast unit",
}
"""Those that are often seen (F, G); the word Fatal or Non-fatal in the line decides, not the number."""
