"""Marks from a judge model (service).

Each question is asked once: marks are kept by the content of the question, so that a resumed run gives an answer the same
mark as before. A reply without a readable mark is asked for once more, and then counts as no mark: 0, told and counted. So
does a question that the judge refuses, such as one that is too long for it. Where more than half of the last questions have
no mark the run stops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpctrain.endpoint.client import Client
from hpctrain.endpoint.judge_text import (
    Prompt,
    again,
    asked_about,
    depends_on_order,
    mark_question,
    pair_question,
    preference,
    read_choice,
    read_mark,
)
from hpctrain.endpoint.kept import Kept, question_key
from hpctrain.endpoint.wire import shown
from hpctrain.errors import EndpointError, QuestionRefusedError
from hpctrain.recipe.schema_method import Judge

Question = list[dict[str, str]]
UNREADABLE_SHARE = 0.5
"""Of the replies; more is a judge that does not do as it is asked."""
_ENOUGH, _RECENT = 8, 64
"""Replies before that share means anything, and how many of the last ones it is taken of."""


class Marker:
    """Asks one judge, and remembers.

    Args:
        cache: folder in which replies are kept; None keeps them only in memory.
        writer: name of this process among those that use the folder, such as ``rank-00003``.
        client: default: one for the judge.
        notify: told in one sentence of replies that cannot be read, and of a cache that cannot be written.

    Attributes:
        asked: questions that went to the judge.
        known: questions whose reply was there already.
        unreadable: questions without a mark, after asking again; ``refused`` are those of them that the judge refused.
        by_place: comparisons in which the judge chose the same letter in either order.
    """

    def __init__(
        self, judge: Judge, *, cache: Path | None = None, writer: str = "marks", client: Client | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self._judge = judge
        self._notify = notify or (lambda _: None)
        self._client = client or Client(judge, notify=self._notify)
        self._kept = Kept(cache, writer)
        self._refused: dict[str, QuestionRefusedError] = {}  # in memory only: another start may meet a judge with more room
        self.asked = self.known = self.unreadable = self.refused = self.by_place = 0
        self._said_unreadable = self._said_cache = False
        self._recent: deque[bool] = deque(maxlen=_RECENT)

    def marks(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, tick: Callable[[int, int], None] | None = None,
    ) -> list[float]:
        """A mark from 0 to 1 for each answer, by the judge's rubric.

        Args:
            prompts: what each answer answers.
            tick: see :meth:`Client.answer_many`.

        Raises:
            EndpointError: the judge does not answer after all tries, or its replies hold no marks.
        """
        judge = self._judge
        questions = [mark_question(judge.rubric, judge.scale, prompt, answer)
                     for prompt, answer in zip(prompts, answers, strict=True)]
        form = f"MARK: number from 0 to {judge.scale}"
        read = self._readings(questions, lambda reply: read_mark(reply, judge.scale), form, tick)
        return [0.0 if mark is None else mark for mark in read]

    def preferences(
        self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str], *,
        tick: Callable[[int, int], None] | None = None,
    ) -> list[float]:
        """How far the first answer is preferred to the second: 1 always, 0 never, 0.5 neither.

        Each pair is asked in both orders, so that a judge's liking for the first or the last place cancels out: one that
        always names the same letter gives 0.5 to every pair.

        Raises:
            EndpointError: as :meth:`marks`.
        """
        rubric = self._judge.rubric
        pairs = list(zip(prompts, first, second, strict=True))
        questions = [pair_question(rubric, prompt, one, two) for prompt, one, two in pairs]
        questions += [pair_question(rubric, prompt, two, one) for prompt, one, two in pairs]
        read = self._readings(questions, read_choice, "BETTER: A, or BETTER: B, or BETTER: TIE", tick)
        found = []
        for forward, backward in zip(read[:len(pairs)], read[len(pairs):], strict=True):
            if forward is None or backward is None:
                found.append(0.5)
                continue
            self.by_place += depends_on_order(forward, backward)
            found.append(preference(forward, backward))
        return found

    # --- asking ---------------------------------------------------------------------------------------------------

    def _readings(
        self, questions: Sequence[Question], read: Callable[[str], Any], form: str, tick: Callable[[int, int], None] | None,
    ) -> list[Any]:
        replies = self._replies(questions, tick)
        unread = [index for index, reply in enumerate(replies) if isinstance(reply, str) and read(reply) is None]
        if unread:
            second = self._replies([again(questions[index], str(replies[index]), form) for index in unread], tick)
            for index, reply in zip(unread, second, strict=True):
                replies[index] = reply
        readings = [read(reply) if isinstance(reply, str) else None for reply in replies]
        self._count(questions, replies, readings)
        return readings

    def _replies(
        self, questions: Sequence[Question], tick: Callable[[int, int], None] | None
    ) -> list[str | QuestionRefusedError]:
        """The judge's words, each different question asked at most once; the error of a question that it refuses."""
        keys = [question_key(self._judge, question) for question in questions]
        missing = {key: question for key, question in zip(keys, questions, strict=True)
                   if self._kept.get(key) is None and key not in self._refused}
        self.known += len(questions) - len(missing)
        self.asked += len(missing)
        order = list(missing)
        self._client.answer_many(
            [missing[key] for key in order], tick=tick,
            on_answer=lambda index, answer: self._kept.put(order[index], {"reply": answer.text}),
            on_refused=lambda index, error: self._refused.update({order[index]: error}),
        )
        if self._kept.problem and not self._said_cache:
            self._said_cache = True
            self._notify(f"the judge's marks are not kept any more: {self._kept.problem}")
        return [self._refused.get(key) or str((self._kept.get(key) or {}).get("reply", "")) for key in keys]

    def _count(
        self, questions: Sequence[Question], replies: Sequence[str | QuestionRefusedError], readings: Sequence[Any]
    ) -> None:
        bad = [index for index, reading in enumerate(readings) if reading is None]
        self.unreadable += len(bad)
        self.refused += sum(isinstance(replies[index], QuestionRefusedError) for index in bad)
        self._recent.extend(reading is None for reading in readings)
        if not bad:
            return
        example, asked = replies[bad[0]], asked_about(questions[bad[0]])
        if isinstance(example, QuestionRefusedError):
            what = f"the judge refuses the question about {asked}: {example.message}"
        else:
            what = f"the judge's reply about {asked} holds no mark: {shown(example) or 'it is empty'}"
        if len(self._recent) >= _ENOUGH and sum(self._recent) > UNREADABLE_SHARE * len(self._recent):
            raise EndpointError(
                f"{sum(self._recent)} of the last {len(self._recent)} questions have no mark, such as this: {what}",
                where=self._judge.url, hint=_hint(example))
        if not self._said_unreadable:
            self._said_unreadable = True
            self._notify(f"{what}; it counts as no mark, as will any other such")


def _hint(example: str | QuestionRefusedError) -> str:
    if isinstance(example, QuestionRefusedError):
        return "give the judge's server more room (vLLM: --max-model-len), or ask for shorter answers"
    return "use a model that follows instructions, or raise judge.max_new_tokens where replies are cut off"
