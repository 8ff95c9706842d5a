"""A small model directory as the model of the test server, on this machine's CPU.

Questions that come together are answered together: the requests of eight clients cost little more than those of one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hpctrain.errors import NotFoundError, first_line
from hpctrain.testing.openai_question import Question, RefusedError, Said

LARGEST_BATCH = 16
_ENOUGH_WAITING_S = 0.02


@dataclass(frozen=True)
class _Job:
    tokens: list[int]
    question: Question
    said: Future[Said]


class LocalModel:
    """Answers with a model directory, by transformers; use it in a ``with`` block.

    Args:
        threads: of the CPU.

    Raises:
        NotFoundError: there is no such model, or it has no tokenizer.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise NotFoundError("holds no config.json, so it is no transformers model", where=str(folder))
        torch.set_num_threads(threads)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
            self._model: Any = AutoModelForCausalLM.from_pretrained(str(folder))
        except Exception as error:  # noqa: BLE001 - transformers raises many classes for "not a model"
            first = first_line(error)
            raise NotFoundError(f"cannot be loaded: {first}", where=str(folder)) from None
        self._model.eval()  # type: ignore[no-untyped-call,unused-ignore]
        self._positions = int(getattr(self._model.config, "max_position_embeddings", 0) or 0)
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> LocalModel:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._jobs.put(None)
        self._thread.join()

    def __call__(self, question: Question) -> Said:
        """Answer one question; waits for those that came before.

        Raises:
            RefusedError: the conversation and its answer do not fit the model.
        """
        tokens = self._tokens(question.messages)
        if self._positions and len(tokens) + question.max_new_tokens > self._positions:
            raise RefusedError(
                f"{len(tokens)} tokens and an answer of up to {question.max_new_tokens} are more than the model's context "
                f"length of {self._positions}")
        job = _Job(tokens, question, Future())
        self._jobs.put(job)
        return job.said.result()

    def _tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        turns = [dict(message) for message in messages]
        if getattr(self._tokenizer, "chat_template", None):
            text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        else:
            text = "\n".join(str(turn.get("content") or "") for turn in turns)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    # --- the thread that computes ---------------------------------------------------------------------------------

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, last = self._gather(first)
            for alike in _groups(jobs):
                try:
                    for job, said in zip(alike, self._generate(alike), strict=True):
                        job.said.set_result(said)
                except Exception as error:  # noqa: BLE001 - the asking threads must not wait for ever
                    for job in alike:
                        if not job.said.done():
                            job.said.set_exception(error)
            if last:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """What has come meanwhile, and whether the end was among it."""
        jobs = [first]
        while len(jobs) < LARGEST_BATCH:
            try:
                job = self._jobs.get(timeout=_ENOUGH_WAITING_S)
            except queue.Empty:
                return jobs, False
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _generate(self, jobs: Sequence[_Job]) -> list[Said]:
        import torch

        end, temperature = self._end(), jobs[0].question.temperature
        width, limit = max(len(job.tokens) for job in jobs), max(job.question.max_new_tokens for job in jobs)
        padding = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else (end or [0])[0]
        rows = [[padding] * (width - len(job.tokens)) + job.tokens for job in jobs]
        mask = [[0] * (width - len(job.tokens)) + [1] * len(job.tokens) for job in jobs]
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        with torch.inference_mode():
            found = self._model.generate(
                torch.tensor(rows), attention_mask=torch.tensor(mask), max_new_tokens=limit, pad_token_id=padding,
                eos_token_id=end or None, **sampling)
        return [self._said(job, row[width:].tolist(), end) for job, row in zip(jobs, found, strict=True)]

    def _said(self, job: _Job, tokens: list[int], end: Sequence[int]) -> Said:
        stop = next((at for at, token in enumerate(tokens) if token in end), None)
        kept = tokens[: job.question.max_new_tokens if stop is None else min(stop, job.question.max_new_tokens)]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        finished = stop is not None and stop <= job.question.max_new_tokens
        return Said(text, finished, len(job.tokens), len(kept))

    def _end(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, and those of the model's generation settings."""
        configured = getattr(self._model.generation_config, "eos_token_id", None)
        more = configured if isinstance(configured, list) else [configured]
        return list(dict.fromkeys(token for token in [self._tokenizer.eos_token_id, *more] if token is not None))


def _groups(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Jobs of one temperature, which may be drawn together."""
    groups: dict[float, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.question.temperature, []).append(job)
    return list(groups.values())
