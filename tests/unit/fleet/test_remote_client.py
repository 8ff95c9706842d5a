"""The client of ``--remote`` on connections that say and do what a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click
import pytest

from hpctrain.cli.main import cli
from hpctrain.cli.remote import words
from hpctrain.errors import AuthenticationError, HpctrainError, MissingDependencyError, UnreachableError
from hpctrain.fleet.remote_client import NO_STATUS, SERVE, Client, Order
from hpctrain.fleet.remote_frames import hello, pack
from hpctrain.fleet.remote_parcel import gather
from hpctrain.fleet.remote_profile import Remote
from hpctrain.testing.fake_clock import FakeClock

REMOTE = Remote("lab", "alice@login", ("/opt/it's/hpctrain",), give_up_s=60)


class Terminal:
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.shown, self.said = [], []

    def show(self, stream: int, text: str) -> None:
        self.shown.append((stream, text))

    def say(self, text: str) -> None:
        self.said.append(text)


class There:
    """The other machine: for each connection either an error, or what each command answers.

    An answer is a list of chunks; an exception in it breaks the connection, a number is the exit status of the program.
    """

    def __init__(self, *connections: object) -> None:
        self.connections, self.requests, self.argv = list(connections), [], []
        self.commands: list[object] = []

    @contextmanager
    def connect(self) -> Iterator[There]:
        now = self.connections.pop(0)
        if isinstance(now, Exception):
            raise now
        self.commands = list(now)
        yield self

    def stream(self, argv, on_stdout, on_stderr, *, stdin, stop, timeout_s=None) -> int:
        self.argv.append(list(argv))
        self.requests.append(json.loads(stdin.read(2**20)))
        for step in self.commands.pop(0):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, threading.Event):
                step.set()
            elif isinstance(step, int):
                return step
            elif isinstance(step, str):
                on_stderr(step.encode())
            else:
                on_stdout(step)
        return 0


HELLO = hello("9.9")
GONE = UnreachableError("the connection broke")


def frame(**keys: object) -> bytes:
    return pack(dict(keys))


def carry_out(there: There, order: Order, clock: FakeClock | None = None) -> tuple[int, Terminal]:
    terminal = Terminal()
    code = Client(REMOTE, there.connect, clock or FakeClock(), terminal).carry_out(order)
    return code, terminal


def test_command_comes_back_as_it_was():
    """Output, messages and exit code arrive; nothing of the command passes a shell or stands in a process list."""
    there = There([[HELLO, frame(items=[[1, "a\n"], [2, "b\n"]]), frame(exit=3)]])
    code, terminal = carry_out(there, Order(("describe", "$(touch pwned) it's")))

    assert (code, terminal.shown) == (3, [(1, "a\n"), (2, "b\n")])
    assert there.argv == [["/opt/it's/hpctrain", SERVE]]
    assert there.requests[0]["argv"] == ["describe", "$(touch pwned) it's"]


def test_follow_goes_on_from_its_position():
    """After each break the position so far is sent back; frames are shown once, half a frame not at all."""
    whole = frame(items=[[1, "2\n"]], at={"logs": {"files": {"a": [1, 4, 0]}}})
    there = There(
        [[HELLO, frame(items=[[1, "1\n"]], at={"now": 5, "job": 7, "run": "r", "logs": {"files": {"a": [1, 2, 0]}}}),
          whole[:10], GONE]],
        UnreachableError("no route"), [[HELLO[:9], GONE]],
        [[HELLO, whole, frame(exit=0)]],
    )
    clock = FakeClock()
    code, terminal = carry_out(there, Order(("logs", "-f", "r"), follows=True), clock)

    assert code == 0
    assert [text for _, text in terminal.shown] == ["1\n", "2\n"]
    assert there.requests[2]["at"] == {"now": 5, "job": 7, "run": "r", "logs": {"files": {"a": [1, 2, 0]}}}
    assert "job 7 goes on" in terminal.said[0] and terminal.said[-1] == "connected to lab again"
    assert clock.sleeps == [1.0, 2.0, 4.0]


def test_gives_up_after_the_time_of_the_profile():
    """Without a connection for give_up_s the command ends with an error that says how to go on."""
    there = There([[HELLO, frame(at={"job": 7, "run": "r"}), GONE]], *[UnreachableError("no route")] * 50)
    with pytest.raises(UnreachableError, match="no connection to lab for 60 s: no route") as caught:
        carry_out(there, Order(("logs", "-f", "r"), follows=True))
    assert "hpctrain --remote lab logs -f r" in caught.value.advice


@pytest.mark.parametrize("error", [UnreachableError("no route"), AuthenticationError("no key fits")])
def test_first_connection_is_not_tried_again(error):
    """A host that cannot be reached at first is an error at once."""
    clock = FakeClock()
    with pytest.raises(type(error)):
        carry_out(There(error), Order(("list",)), clock)
    assert clock.sleeps == []


def test_break_before_the_first_word_is_tried_again():
    """A connection that was made and broke while the other end was starting is no reason to give up; three are."""
    there = There([[GONE]], [[GONE]], [[HELLO, frame(items=[[1, "x"]]), frame(exit=0)]])
    code, terminal = carry_out(there, Order(("list",)))
    assert (code, terminal.shown) == (0, [(1, "x")])
    with pytest.raises(UnreachableError, match="the connection broke"):
        carry_out(There([[GONE]], [[GONE]], [[GONE]]), Order(("list",)))


def test_keys_that_are_refused_later_end_it():
    """A host that lets us in no more is not asked again and again."""
    there = There([[HELLO, frame(items=[[1, "1\n"]]), GONE]], AuthenticationError("no key fits"))
    with pytest.raises(AuthenticationError):
        carry_out(there, Order(("logs", "-f", "r"), follows=True))


def test_short_command_is_asked_again_without_a_trace():
    """What a command that follows nothing had said before the connection broke is not shown twice."""
    there = There([[HELLO, frame(items=[[1, "half a ta"]]), GONE]], [[HELLO, frame(items=[[1, "table\n"]]), frame(exit=0)]])
    code, terminal = carry_out(there, Order(("list",)))

    assert (code, terminal.shown) == (0, [(1, "table\n")])


def test_long_output_that_is_cut_is_an_error(monkeypatch):
    """Where too much was shown already to start again, the end says that it is not complete."""
    monkeypatch.setattr("hpctrain.fleet.remote_client.KEEP_CHARACTERS", 5)
    there = There([[HELLO, frame(items=[[1, "1234567890"]]), frame(items=[[1, "x"]]), GONE]])
    with pytest.raises(UnreachableError, match="not complete"):
        carry_out(there, Order(("logs", "r")))


@pytest.mark.parametrize(("answer", "words_", "error"), [
    ([127, ], "there is no \"/opt/it's/hpctrain\" on lab", MissingDependencyError),
    (["Error: no such command 'remote-serve'. See 'hpctrain --help'.\n", 2], "too old for --remote", MissingDependencyError),
    (["bash: oops\n", 1], "does not answer .status 1.: bash: oops", MissingDependencyError),
    ([hello("3").replace(b'"protocol": 1', b'"protocol": 2'), frame(exit=0)], "speaks protocol 2", MissingDependencyError),
    ([b"banner " * 20_000], "is not from hpctrain", MissingDependencyError),
    ([HELLO, "Traceback\nValueError: boom\n", 1], "ended without an answer .status 1.", HpctrainError),
])
def test_what_is_wrong_over_there_is_told(answer, words_, error):
    """No hpctrain, an old one, another protocol, a talkative shell: one error each, with what to do."""
    with pytest.raises(error, match=words_) as caught:
        carry_out(There([answer]), Order(("list",)))
    assert caught.value.advice


def test_killed_process_is_asked_again():
    """A process that somebody killed over there counts as a broken connection."""
    there = There([[HELLO, frame(items=[[1, "1\n"]], at={"a": 1}), NO_STATUS]], [[HELLO, frame(exit=0)]])
    code, _ = carry_out(there, Order(("logs", "-f", "r"), follows=True))
    assert code == 0 and there.requests[1]["at"] == {"a": 1}


RECIPE = "version: 1\nname: t\ncommand: [t.py]\n"


def test_submission_sends_what_is_missing_and_asks_for_the_same_again(tmp_path):
    """Contents are asked for, the missing ones follow the request; a second connection makes the same request."""
    (tmp_path / "t.py").write_text("print()\n")
    (tmp_path / "r.yaml").write_text(RECIPE)
    parcel = gather("r.yaml", (), tmp_path)

    class Picky(There):
        def stream(self, argv, on_stdout, on_stderr, *, stdin, stop, timeout_s=None) -> int:
            request = json.loads(stdin.read(2**20))
            self.requests.append(request)
            if request["op"] == "missing":
                on_stdout(HELLO + frame(missing=request["names"][:1]) + frame(exit=0))
                return 0
            assert len(stdin.read(2**20)) == request["sending"][0][1]
            if len(self.requests) == 2:
                raise GONE
            on_stdout(HELLO + frame(items=[[1, "t-1\n"]], at={"run": "t-1", "job": 3}) + frame(exit=0))
            return 0

    there = Picky([], [])
    code, terminal = carry_out(there, Order(("submit", "r.yaml"), parcel=parcel))

    assert (code, terminal.shown) == (0, [(1, "t-1\n")])
    assert there.requests[1]["request"] == there.requests[3]["request"]
    assert [text for text in terminal.said if text.startswith("sending")] == [
        f"sending 1 file ({there.requests[1]['sending'][0][1]} B) to lab; 1 was there already"
    ]


def test_submission_that_was_told_is_not_made_again(tmp_path):
    """Once the run's name has arrived, a broken connection asks for no other submission."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    parcel = gather("r.yaml", (), tmp_path)
    there = There(
        [[HELLO, frame(missing=[]), frame(exit=0)], [HELLO, frame(items=[[1, "t-1\n"]], at={"run": "t-1", "job": 3}), GONE]],
        [[HELLO, frame(exit=10)]],
    )
    code, terminal = carry_out(there, Order(("submit", "-f", "r.yaml"), follows=True, parcel=parcel))

    assert (code, terminal.shown) == (10, [(1, "t-1\n")])
    assert "tree" not in there.requests[2] and there.requests[2]["at"]["run"] == "t-1"


def test_question_that_fails_is_shown(tmp_path):
    """A full disk over there is told as over there, and nothing is sent."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    there = There([[HELLO, frame(items=[[2, "error: cannot write\n"]]), frame(exit=9)]])
    code, terminal = carry_out(there, Order(("submit", "r.yaml"), parcel=gather("r.yaml", (), tmp_path)))

    assert (code, terminal.shown) == (9, [(2, "error: cannot write\n")])


def test_interrupt_is_passed_on_and_not_taken_for_a_break():
    """The first Ctrl-C goes to the command there, the second leaves it; neither leads to another connection."""
    client = None

    class Interrupted(There):
        def stream(self, argv, on_stdout, on_stderr, *, stdin, stop, timeout_s=None) -> int:
            stdin.read(2**20)
            on_stdout(HELLO + frame(at={"job": 1}))
            assert client.interrupt() and stdin.read(1) == b"i" and not stop.is_set()
            assert client.interrupt() and stop.is_set()
            raise GONE

    there, terminal = Interrupted([]), Terminal()
    client = Client(REMOTE, there.connect, FakeClock(), terminal)

    assert client.carry_out(Order(("logs", "-f", "r"), follows=True)) == 130
    assert not client.interrupt()


def test_interrupt_while_files_are_compared_submits_nothing(tmp_path):
    """A Ctrl-C before the submission was asked for is not lost on the way to it."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    client = None

    class Interrupted(There):
        def stream(self, argv, on_stdout, on_stderr, *, stdin, stop, timeout_s=None) -> int:
            self.requests.append(json.loads(stdin.read(2**20)))
            client.interrupt()
            on_stdout(HELLO + frame(missing=[]) + frame(exit=0))
            return 0

    there = Interrupted([])
    client = Client(REMOTE, there.connect, FakeClock(), Terminal())

    assert client.carry_out(Order(("submit", "r.yaml"), parcel=gather("r.yaml", (), tmp_path))) == 130
    assert [request["op"] for request in there.requests] == ["missing"]


def test_interrupt_between_two_connections_ends_it():
    """A Ctrl-C while there is no connection ends the command and says that the job goes on."""

    class Clock(FakeClock):
        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

    there = There([[HELLO, frame(at={"job": 7, "run": "r"}), GONE]])
    code, terminal = carry_out(there, Order(("logs", "-f", "r"), follows=True), Clock())

    assert code == 130 and "job 7 goes on" in terminal.said[-1]


EVIL = "a b'\"$(touch pwned);`x`\n--rank=3"


@pytest.mark.parametrize("line", [
    ["list", "--all", "-o", "json"], ["list"], ["describe", EVIL],
    ["logs", "-f", "--rank", "3", "--tail", "all", "-t", "latest"],
    ["logs", "--since", "10m", "--all", "--", "-x"], ["events", "-f", "--kind", "job", "--kind", EVIL, "7"],
    ["cancel", "1", "2", "--dry-run"], ["why", "x", "--output=json"], ["report", "x", "--width", "120"],
    ["submit", "r.yaml", "--set", "a.b=c=d", "--set", EVIL, "--dry-run"], ["submit", "-f", "-w", "--", "-r.yaml"],
])
def test_command_line_is_put_together_again(line):
    """What is sent parses to exactly what was typed, whatever stands in it; defaults are left to the other machine."""
    command = cli.get_command(click.Context(cli), line[0])
    first = command.make_context(line[0], list(line[1:]))
    again = words(command, line[0], first)
    second = command.make_context(line[0], again[1:])

    assert first.params == second.params
    assert len(again) <= len(line) + 1
