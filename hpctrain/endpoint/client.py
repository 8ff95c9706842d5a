"""Asks a model behind an OpenAI-compatible endpoint: with a limit of time, of tries and of requests at once (service).

::

    client = Client(recipe.judge)
    text = client.complete([{"role": "user", "content": "What is 2 + 2?"}])
    texts = client.complete_many([conversation, ...])

Whatever goes wrong ends as one :class:`EndpointError` after a bounded time: at most ``retries + 1`` times ``timeout_s``,
and the waits in between. The key is read from the environment, is sent in one header, and stands in no message, log or file.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from hpctrain.clock import Clock, SystemClock
from hpctrain.endpoint.exchange import NoReplyError, Reply, post
from hpctrain.endpoint.wire import (
    REFUSED,
    RETRIED,
    Answer,
    Message,
    chat_body,
    error_text,
    other_limit_name,
    read_answer,
    wait_s,
)
from hpctrain.errors import EndpointError, QuestionRefusedError
from hpctrain.recipe.endpoint_url import CHAT, url_problem
from hpctrain.recipe.schema_method import Endpoint

Conversation = Sequence[Message]
Post = Callable[..., Reply]
"""The signature of :func:`hpctrain.endpoint.exchange.post`."""

_LOOK_S = 1.0
"""How often a caller that waits for many answers is told how far it is, and may stop."""
_SLICE_S = 0.5
_QUEUED_PER_WORKER = 4
_QUIET_S = 30.0
"""Between two lines that tell of further tries."""


class AskingStopped(Exception):  # noqa: N818 - a wish of the caller, not a mistake
    """The caller asked to stop before all answers were there; the text is its reason."""


class Client:
    """Asks one endpoint.

    Args:
        env: where the key is; default: this process's environment.
        share: processes that use the endpoint at once, such as the ranks of a node; ``concurrency`` is divided by it.
        notify: told in one sentence of further tries, at most twice a minute.
        exchange: instead of HTTP, in tests.

    Raises:
        EndpointError: the variable that is to hold the key does not.
    """

    def __init__(
        self, endpoint: Endpoint, *, env: Mapping[str, str] | None = None, clock: Clock | None = None, share: int = 1,
        notify: Callable[[str], None] | None = None, exchange: Post = post,
    ) -> None:
        self.endpoint = endpoint
        problem = url_problem(endpoint.url)
        if problem:
            raise EndpointError(f"the endpoint's url {problem}", where=endpoint.url)
        self._key = _key(endpoint, os.environ if env is None else env)
        self._clock: Clock = clock or SystemClock()
        self._post = exchange
        self._workers = max(1, endpoint.concurrency // max(1, share))
        self._notify = notify or (lambda _: None)
        self._told: float | None = None
        self._limit_name = "max_tokens"
        # Not Python's own random numbers: the training that asks must draw the same ones with and without a retry.
        self._jitter = random.Random(os.urandom(8))  # noqa: S311 - spreads retries, guards nothing

    def complete(self, messages: Conversation) -> str:
        """What the model says.

        Args:
            messages: the conversation so far.

        Raises:
            EndpointError: it does not answer, refuses, or answers nonsense, after all tries.
        """
        return self.answer(messages).text

    def complete_many(
        self, conversations: Sequence[Conversation], *, tick: Callable[[int, int], None] | None = None
    ) -> list[str]:
        """What the model says to each of many conversations, asked ``concurrency`` at a time; see :meth:`answer_many`."""
        return [answer.text for answer in self.answer_many(conversations, tick=tick)]

    def answer(self, messages: Conversation) -> Answer:
        """Like :meth:`complete`, with what else is known of the answer."""
        return self._answer(messages, threading.Event())

    def answer_many(
        self, conversations: Sequence[Conversation], *, on_answer: Callable[[int, Answer], None] | None = None,
        on_refused: Callable[[int, QuestionRefusedError], None] | None = None,
        tick: Callable[[int, int], None] | None = None, stop: Callable[[], str] | None = None,
    ) -> list[Answer]:
        """The answers to many conversations, in their order.

        Args:
            on_answer: given the index and the answer as each arrives, in this thread.
            on_refused: given the index and the error of each question that the endpoint refuses while it may answer others;
                its answer is then empty. Whoever gives none ends at the first. What this raises ends the asking.
            tick: given how many are there, of how many, at least once a second: for heartbeats and progress.
            stop: asked as often; a reason that is not "" ends the asking.

        Raises:
            EndpointError: one could not be had, after all tries. Those that had arrived were passed on.
            AskingStopped: ``stop`` gave a reason.
        """
        total = len(conversations)
        if not total:
            return []
        answers: dict[int, Answer] = {}
        waiting: dict[Future[Answer], int] = {}
        todo, given_up = iter(range(total)), threading.Event()
        pool = ThreadPoolExecutor(min(self._workers, total), thread_name_prefix="endpoint")
        try:
            while len(answers) < total:
                self._fill(pool, waiting, todo, conversations, given_up)
                for index, answer in _arrived(waiting, may_refuse=on_refused is not None):
                    answers[index] = answer if isinstance(answer, Answer) else Answer("")
                    if isinstance(answer, Answer):
                        if on_answer is not None:
                            on_answer(index, answer)
                    elif on_refused is not None:
                        on_refused(index, answer)
                if tick is not None:
                    tick(len(answers), total)
                reason = stop() if stop is not None else ""
                if reason and len(answers) < total:
                    raise AskingStopped(reason)
        finally:
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return [answers[index] for index in range(total)]

    # --- many at once ---------------------------------------------------------------------------------------------

    def _fill(
        self, pool: ThreadPoolExecutor, waiting: dict[Future[Answer], int], todo: Iterator[int],
        conversations: Sequence[Conversation], given_up: threading.Event,
    ) -> None:
        """Keep the workers busy without holding a million requests in memory."""
        while len(waiting) < self._workers * _QUEUED_PER_WORKER:
            index = next(todo, None)
            if index is None:
                return
            waiting[pool.submit(self._answer, conversations[index], given_up)] = index

    # --- one ------------------------------------------------------------------------------------------------------

    def _answer(self, messages: Conversation, given_up: threading.Event) -> Answer:
        tries, reason = 0, ""
        while tries <= self.endpoint.retries:
            if given_up.is_set():
                raise EndpointError("not asked any more", where=self.endpoint.url)
            tries += 1
            asked_for_s: float | None = None
            try:
                reply = self._send(messages)
            except NoReplyError as error:
                reason = str(error)
                if error.lasting:
                    raise self._error(reason, tries) from None
            else:
                if reply.status == 200:
                    try:
                        return read_answer(reply.body)
                    except ValueError as error:
                        reason = self._clean(str(error))
                elif reply.status in RETRIED:
                    reason, asked_for_s = self._said(reply), reply.retry_after_s
                else:
                    raise self._refused(reply, tries)
            if tries <= self.endpoint.retries:
                self._pause(wait_s(tries, asked_for_s, self._jitter.random()), reason, tries, given_up)
        raise self._error(reason, tries)

    def _send(self, messages: Conversation) -> Reply:
        limit_name = self._limit_name
        reply = self._post_once(messages, limit_name)
        if reply.status == 400 and (other := other_limit_name(limit_name, error_text(reply.body))):
            self._limit_name = other
            return self._post_once(messages, other)
        return reply

    def _post_once(self, messages: Conversation, limit_name: str) -> Reply:
        endpoint = self.endpoint
        body = chat_body(endpoint.model, messages, temperature=endpoint.temperature,
                         max_new_tokens=endpoint.max_new_tokens, limit_name=limit_name)
        return self._post(endpoint.url.rstrip("/") + CHAT, body, key=self._key, timeout_s=endpoint.timeout_s)

    def _pause(self, seconds: float, reason: str, tries: int, given_up: threading.Event) -> None:
        now = self._clock.monotonic()
        if self._told is None or now - self._told >= _QUIET_S:
            self._told = now
            self._notify(f"{self.endpoint.url}: {reason}; trying again in {seconds:.0f} s "
                         f"(try {tries} of {self.endpoint.retries + 1} failed)")
        ends = now + seconds
        while (left := ends - self._clock.monotonic()) > 0 and not given_up.is_set():
            self._clock.sleep(min(left, _SLICE_S))

    # --- errors ---------------------------------------------------------------------------------------------------

    def _refused(self, reply: Reply, tries: int) -> EndpointError:
        hint = {
            401: self._key_hint("the key is not accepted"), 403: self._key_hint("the key is not allowed to do this"),
            404: f"check that the server calls the model {self.endpoint.model!r}, and that the url ends in /v1 or the like",
            413: "the request is too large for the server",
        }.get(reply.status, "")
        if 300 <= reply.status < 400:
            hint = "give the address that it redirects to; redirections are not followed, because the key would go along"
        kind = QuestionRefusedError if reply.status in REFUSED else EndpointError
        return self._error(self._said(reply), tries, hint, kind)

    def _key_hint(self, what: str) -> str:
        name = self.endpoint.api_key_env
        return f"{what}: check the variable {name}" if name else "name the variable that holds the key in api_key_env"

    def _error(
        self, reason: str, tries: int, hint: str = "", kind: type[EndpointError] = EndpointError
    ) -> EndpointError:
        after = f" ({tries} tries)" if tries > 1 else ""
        return kind(f"{reason}{after}", where=self.endpoint.url, hint=hint)

    def _said(self, reply: Reply) -> str:
        said = self._clean(error_text(reply.body))
        return f"it answered with HTTP status {reply.status}" + (f": {said}" if said else "")

    def _clean(self, text: str) -> str:
        """Some servers repeat the key in their refusal."""
        return text.replace(self._key, "***") if self._key else text


def _arrived(
    waiting: dict[Future[Answer], int], *, may_refuse: bool
) -> Iterator[tuple[int, Answer | QuestionRefusedError]]:
    """Answers that are there, waiting a little for the first; an error comes last, so that it costs no answer.

    Args:
        may_refuse: a question that was refused is given back as its error.
    """
    failed: BaseException | None = None
    for future in wait(waiting, timeout=_LOOK_S, return_when=FIRST_COMPLETED).done:
        index, error = waiting.pop(future), future.exception()
        if error is None:
            yield index, future.result()
        elif may_refuse and isinstance(error, QuestionRefusedError):
            yield index, error
        else:
            failed = failed or error
    if failed is not None:
        raise failed


def _key(endpoint: Endpoint, env: Mapping[str, str]) -> str:
    name = endpoint.api_key_env
    if name is None:
        return ""
    key = env.get(name, "").strip()
    if not key:
        hint = f"export {name} in the shell that submits; Slurm hands its environment to the job"
        raise EndpointError(f"the variable {name}, which api_key_env names, is not set", where=endpoint.url, hint=hint)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise EndpointError(f"the variable {name} holds what cannot be a key (blanks, or no ASCII)", where=endpoint.url)
    return key
