"""Tiny models on disk, made in a moment: random weights, one token per byte, chats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 258


TEMPLATE = ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}")


def tokenizer() -> Any:
    """One token per byte, end of text, padding, and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    vocabulary = {chr(byte) if byte in printed else chr(next(others)): byte for byte in range(256)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<|end|>", "<|pad|>")])
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|pad|>",
                                        clean_up_tokenization_spaces=False)
    fast.chat_template = TEMPLATE
    return fast


def config(**changes: Any) -> Any:
    """A small Llama."""
    from transformers import LlamaConfig

    values = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 96, "eos_token_id": 256,
        "pad_token_id": 257, "bos_token_id": None,
    }
    return LlamaConfig(**{**values, **changes})


def causal(folder: Path, *, seed: int = 1, scale: float = 0.3, uniform: bool = False) -> Path:
    """A model that writes; with ``uniform`` every token is as likely as any other."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(initializer_range=scale))
    if uniform:
        torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def reward(folder: Path, *, seed: int = 2) -> Path:
    """A model that marks."""
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(seed)
    LlamaForSequenceClassification(config(num_labels=1, initializer_range=0.3)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
