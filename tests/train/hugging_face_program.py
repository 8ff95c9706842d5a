"""A small Hugging Face training that kills itself: ``python -m tests.train.hugging_face_program PLACE STEP``."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from hpctrain.checkpoint.callbacks_transformers import CheckpointCallback


class Killer(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """SIGKILL after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(place: Path, kill_at: int) -> None:
    torch.set_num_threads(1)
    set_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, attention_dropout=0.2))
    draw = torch.Generator().manual_seed(3)
    rows = [torch.randint(0, 64, (12,), generator=draw) for _ in range(22)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    callback = CheckpointCallback(notify=lambda kind, reason, step, evidence: print(kind, reason, flush=True))
    trainer = Trainer(
        model,
        TrainingArguments(
            str(place / "hf"), num_train_epochs=4, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            learning_rate=1e-2, save_strategy="no", report_to=[], logging_steps=1, eval_strategy="steps", eval_steps=2,
            disable_tqdm=True, use_cpu=True, seed=5,
        ),
        train_dataset=data, eval_dataset=data[:4], callbacks=[callback, Killer(kill_at)],
    )
    trainer.train(resume_from_checkpoint=callback.resume(trainer))
    (place / "weights").write_bytes(b"".join(value.numpy().tobytes() for value in model.state_dict().values()))
    kept = [{name: line[name] for name in ("step", "loss", "grad_norm", "eval_loss") if name in line}
            for line in trainer.state.log_history]
    (place / "log").write_text(json.dumps([line for line in kept if len(line) > 1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
