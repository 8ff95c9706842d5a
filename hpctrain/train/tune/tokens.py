"""Conversations and answers as tokens, and which of them are learned (adapter over a transformers tokenizer).

Which tokens the assistant says is found in one of three ways: the chat template marks them (``{% generation %}``); trl knows
a form of this very template that does; or the conversation is written out turn by turn, which works wherever a template does
not change what was said before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hpctrain.errors import RecipeError, first_line
from hpctrain.train.tune.tokenizer import need_chat_template

IGNORED = -100
"""The label of a token that is not learned; torch's and transformers' number for it."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes rows as tokens.

    Attributes:
        tokenizer: a transformers tokenizer.
        template: the chat template to write with; "" where the tokenizer's own does.
        marked: that template marks what the assistant says.
        learn_all: learn every token, not only the assistant's.
        longest: tokens of a sequence at most.
    """

    tokenizer: Any
    template: str
    marked: bool
    learn_all: bool
    longest: int

    @classmethod
    def of(cls, tokenizer: Any, *, learn_all: bool, longest: int) -> Writer:
        """Find out how this tokenizer's template says what the assistant says."""
        from trl.chat_template_utils import get_training_chat_template, has_generation_markers

        if learn_all or not tokenizer.chat_template:
            return cls(tokenizer, "", False, learn_all, longest)
        try:
            template = get_training_chat_template(tokenizer) or ""
        except (ValueError, TypeError, KeyError):  # a template that trl has never seen
            template = ""
        return cls(tokenizer, template, has_generation_markers(template or tokenizer.chat_template), learn_all, longest)

    def chat(self, row: dict[str, Any], where: str) -> dict[str, list[int]]:
        """``input_ids`` and ``labels`` of a ``chat`` row.

        Raises:
            RecipeError: the template refuses it, or does not say what is to be learned.
        """
        messages = row["messages"]
        if self.learn_all:
            ids = self._conversation(messages, row, where)
            return {"input_ids": ids, "labels": list(ids)}
        if self.marked:
            ids, mask = self._marked(messages, row, where)
        else:
            ids, mask = self._turn_by_turn(messages, row, where)
        if not any(mask):
            raise RecipeError("the chat template marks nothing of this row as said by the assistant", where=where)
        return {"input_ids": ids, "labels": [token if said else IGNORED for token, said in zip(ids, mask, strict=True)]}

    def pair(self, row: dict[str, Any], where: str) -> dict[str, list[int]]:
        """``input_ids`` and ``labels`` of a ``prompt_completion`` row."""
        prompt, ids = self.question_and_answer(row, row["completion"], where)
        labels = list(ids) if self.learn_all else [IGNORED] * len(prompt) + ids[len(prompt):]
        return {"input_ids": ids, "labels": labels}

    def text(self, row: dict[str, Any], field: str) -> dict[str, list[int]]:
        """``input_ids`` and ``labels`` of a ``text`` row: all of it is learned, and that it ends."""
        ids = self._plain(row[field] + self.tokenizer.eos_token)
        return {"input_ids": ids, "labels": list(ids)}

    def question_and_answer(self, row: dict[str, Any], answer: Any, where: str) -> tuple[list[int], list[int]]:
        """The tokens of the prompt, and of the prompt with an answer; the first are what the second begin with."""
        if isinstance(row["prompt"], str):
            prompt = self._plain(row["prompt"])
            ids = self._plain(row["prompt"] + answer + self.tokenizer.eos_token)
        else:
            prompt = self._conversation(row["prompt"], row, where, add_generation_prompt=True)
            ids = self._conversation([*row["prompt"], *answer], row, where)
        shared = next((at for at, (one, two) in enumerate(zip(prompt, ids, strict=False)) if one != two), len(prompt))
        # A template may begin an answer in another way than it asks for one, and tokens may join over the border.
        return prompt[:shared], ids

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def _conversation(self, messages: Any, row: dict[str, Any], where: str, **options: Any) -> list[int]:
        return list(self._apply(messages, row, where, **options)["input_ids"])

    def _marked(self, messages: Any, row: dict[str, Any], where: str) -> tuple[list[int], list[int]]:
        written = self._apply(messages, row, where, return_assistant_tokens_mask=True)
        return list(written["input_ids"]), list(written["assistant_masks"])

    def _turn_by_turn(self, messages: Any, row: dict[str, Any], where: str) -> tuple[list[int], list[int]]:
        ids = self._conversation(messages, row, where)
        mask = [0] * len(ids)
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._conversation(messages[:number], row, where, add_generation_prompt=True)
            after = self._conversation(messages[: number + 1], row, where)
            if ids[: len(before)] != before or ids[: len(after)] != after:
                raise RecipeError(
                    "the chat template writes earlier turns differently once others follow, so that it cannot be seen which "
                    "tokens the assistant said", where=where,
                    hint="mark them in the template ({% generation %}), or set chat.loss_on to all",
                )
            mask[len(before) : len(after)] = [1] * (len(after) - len(before))
        return ids, mask

    def _apply(self, messages: Any, row: dict[str, Any], where: str, **options: Any) -> Any:
        need_chat_template(self.tokenizer)
        tools = row.get("tools")
        try:
            return self.tokenizer.apply_chat_template(
                messages, tools=json.loads(tools) if isinstance(tools, str) else tools, tokenize=True, return_dict=True,
                chat_template=self.template or None, **(row.get("chat_template_kwargs") or {}), **options,
            )
        except Exception as error:  # noqa: BLE001 - templates raise what they like: jinja's errors, TypeError, ValueError
            first = first_line(error)
            raise RecipeError(f"the chat template refuses this row: {first}", where=where) from None


def fit(row: dict[str, list[int]], longest: int) -> dict[str, list[int]] | None:
    """Cut a row of ``input_ids`` and ``labels`` to a length; None when nothing that is learned is left."""
    cut = {name: values[:longest] for name, values in row.items()}
    return cut if any(label != IGNORED for label in cut["labels"]) else None
