"""The page of a report: whole in itself, harmless, readable."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from hpctrain.jobs.event import Event
from hpctrain.jobs.goodput import Size
from hpctrain.jobs.page import render
from hpctrain.jobs.records import Metrics, Point, find_restarts, merge_points
from hpctrain.jobs.report import Report, make_report
from hpctrain.jobs.status import JobStatus, State
from tests.unit.jobs.story import Story, respawned

EVIL = "</title><script>alert('x')</script>\"&"
VOID = {"meta", "br", "link", "img", "hr"}


class Reader(HTMLParser):
    """Collects tags and attributes, and minds that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(story: Story, *, name: str = "tiny-1", steps: int = 60) -> str:
    return render(report(story, name=name, steps=steps), made_at=story.now, version="1.2.3")


def report(story: Story, *, name: str = "tiny-1", steps: int = 60) -> Report:
    points = [Point(step, 1008 + step, 0, loss=3 - step / 100, step_time_s=0.9) for step in range(1, steps + 1)]
    status = JobStatus(7, name, "/runs/x", State.RUNNING, "it is training", step=steps, total_steps=100,
                       submitted_time=1000.0)
    metrics = Metrics(merge_points(points), find_restarts(points))
    return make_report(status, story.events, metrics, now=story.now + 50, size=Size(2, 16))


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert [] == reader.open
    return reader


def test_the_page_tells_what_the_text_tells() -> None:
    """Failure, rung, phases, tier, cost and goodput stand in the page as words, not only as colours."""
    words = " ".join(read(page(respawned())).words)

    for part in ("tiny-1", "rank 2 on n2 died of SIGKILL", "R1", "recovered on R1 in 0.9s", "regroup 0.2s",
                 "the node's own memory", "ETTR", "GPU-hours", "1 step done again", "hpctrain 1.2.3"):
        assert part in words, part


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    """No script, no handler, no link to anywhere, and a policy that forbids them to the browser."""
    text = page(respawned())
    reader = read(text)

    assert not {"script", "iframe", "object", "link", "img", "a", "form", "base"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("href", "src", "style")]
    assert not re.search(r"https?:|url\(|@import", text)
    assert ("http-equiv", "Content-Security-Policy") in reader.attributes
    assert [value for name, value in reader.attributes if name == "content" and value.startswith("default-src 'none'")]


@pytest.mark.parametrize("place", ["name", "reason", "node", "traceback", "cause", "rung", "phase", "timeline"])
def test_words_of_programs_stay_words(place: str) -> None:
    """Whatever a name, reason, node, traceback or unknown value holds, it opens no tag."""
    story, name = Story().begin(), "tiny-1"
    evidence = {"cause": EVIL} if place == "cause" else {}
    if place == "name":
        name = EVIL
    story.fault(reason=EVIL if place == "reason" else "died", nodes=[EVIL] if place == "node" else ["n1"], **evidence)
    story.recovery(EVIL if place == "rung" else "R1", reason=EVIL)
    if place == "timeline":
        story.tell(EVIL, EVIL)
    story.tell("job.failed", "it failed", traceback=EVIL if place == "traceback" else "", exit_code=1)

    text = page(story, name=name)

    assert "<script>" not in text
    assert "script" not in read(text).tags


def test_pictures_are_well_formed() -> None:
    """Every picture is XML, has a title for those who cannot see it, and stays within its frame."""
    pictures = re.findall(r"<svg.*?</svg>", page(respawned()), flags=re.DOTALL)

    assert 3 == len(pictures)
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
        assert root.attrib["aria-label"]
        for shape in root.iter("rect"):
            assert 0 <= float(shape.attrib["x"]) <= width
            assert float(shape.attrib["x"]) + float(shape.attrib["width"]) <= width + 1
            assert float(shape.attrib["y"]) + float(shape.attrib["height"]) <= height + 0.1


def test_a_long_run_makes_no_huge_page() -> None:
    """Ten thousand steps are one stretch of the picture and some hundred points of the curve."""
    assert len(page(Story().begin(), steps=10_000)) < 100_000


def test_a_run_that_has_not_started_has_a_page() -> None:
    """No step, no failure, no start: the page says so."""
    words = " ".join(read(page(Story().tell("job.submitted", source="submit"), steps=0)).words)

    assert "No step with a finite loss is recorded." in words
    assert "None." in words


def test_one_step_has_a_curve() -> None:
    """A curve of one point is a dot."""
    assert "<circle" in page(Story().begin(), steps=1)


def test_light_dark_and_paper() -> None:
    """The page has colours for dark screens and for print."""
    text = page(respawned())

    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "color-scheme: light dark" in text


def test_a_report_carries_incidents_and_goodput_as_json() -> None:
    """Programs read the same numbers."""
    made = report(respawned()).to_json()

    assert "R1" == made["incidents"][0]["rung"]
    assert {"detect", "kill", "regroup", "state", "data", "first_step"} == set(made["incidents"][0]["phases_s"])
    assert made["goodput"]["unit"] == "GPU-hours"
    assert 0 < made["goodput"]["ettr"] < 1


def test_events_of_an_unknown_kind_do_no_harm() -> None:
    """A later version's events are shown by their name."""
    story = Story().begin()
    story.events.append(Event(story.now, "x", "moon.landed", 7))

    assert "moon.landed" in page(story)
