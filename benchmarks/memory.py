"""The memory arithmetic of recipes against what torch counts, at real sizes (entry point).

    python benchmarks/memory.py [--short] [--only WORD]

Each case builds a published architecture at its full size under torch's FakeTensorMode, where tensors have a size and no
memory, takes an optimizer step and then two passes with trl's own loss, and lets torch's MemTracker count the largest sum of
bytes that were alive at once. The arithmetic is that of 'hpctrain validate', without the line for the runtime, which no
tracker sees.

What this does not see: sharded models, the allocator's slack, kernels' workspaces, flash attention instead of PyTorch's.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from hpctrain.recipe.memory import estimate  # noqa: E402 - the path is set above
from hpctrain.recipe.schema import Recipe  # noqa: E402
from hpctrain.recipe.tables import tables  # noqa: E402

ALLOWED = 0.15
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Case:
    """One recipe, as far as its memory goes.

    Attributes:
        model: a name of recipes/families.toml.
        layers: fewer layers than the model has, so that a test is quick; None for all.
    """

    model: str
    method: str = "sft"
    adapter: str = ""
    tokens: int = 4096
    samples: int = 1
    again: bool = True
    layers: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The case in words."""
        how = f"{self.method} {self.adapter or 'full'}"
        kept = "recomputed" if self.again else "kept"
        shape = f"{self.samples} x {self.tokens}, {kept}"
        return f"{self.model}{f' ({self.layers} layers)' if self.layers else ''}: {how}, {shape}"

    @property
    def config(self) -> dict[str, Any]:
        """The architecture."""
        config = dict(tables().models[self.model].config)
        return {**config, "num_hidden_layers": self.layers} if self.layers else config

    @property
    def recipe(self) -> Recipe:
        """The recipe that is estimated."""
        model = tables().models[self.model]
        adapter: dict[str, Any] = {"kind": self.adapter} if self.adapter else {}
        if adapter and model.target_modules:
            adapter["target_modules"] = list(model.target_modules)
        return Recipe.model_validate({
            "version": 1, "name": "memory", "method": self.method, "model": {"path": "x"},
            "data": {"source": "docstring-questions", "sequence_length": self.tokens},
            "training": {"steps": 2, "micro_batch_size": self.samples, "global_batch_size": 2 * self.samples,
                         "activation_checkpointing": self.again}, **({"adapter": adapter} if adapter else {}), **self.more,
        })


SHORT = (
    Case("qwen3_0_6b", adapter="lora", tokens=1024, again=False, layers=4),
    Case("qwen3_0_6b", tokens=1024, layers=4),
    Case("qwen3_0_6b", "dpo", tokens=512, layers=4),
    Case("gpt_oss_20b", adapter="lora", tokens=1024, layers=2),
)
"""A sample that tests run."""

LONG = (
    *(Case(name, adapter="lora") for name in (
        "llama3_1_8b", "qwen3_8b", "qwen2_5_14b", "mistral_7b", "gemma2_9b", "mixtral_8x7b", "qwen3_30b_a3b", "gpt_oss_20b",
        "llama4_scout", "deepseek_v3")),
    Case("llama3_1_8b", adapter="lora", tokens=2048, again=False),
    Case("qwen3_8b", adapter="dora"),
    *(Case(name) for name in ("llama3_2_1b", "llama3_1_8b", "qwen3_4b", "gemma3_1b", "qwen3_30b_a3b")),
    Case("llama3_2_1b", tokens=2048, again=False),
    Case("qwen3_4b", "dpo", tokens=2048),
    Case("qwen3_8b", "dpo", "lora", tokens=2048),
    Case("qwen3_4b", "reward", "lora", tokens=2048),
)


def expected_bytes(case: Case) -> int:
    """The arithmetic, without the runtime."""
    size = estimate(case.recipe, case.config, {})
    return sum(item.size_bytes for item in size.items if item.what != "runtime")


def counted_bytes(case: Case) -> int:
    """The largest sum of bytes alive at once, as torch's tracker counts it."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        built = _models(case)
    _group_in_float32()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        model, reference = _ready(*built)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, foreach=False)
        tracker = _whole_tracker()
        for one in (model, reference):  # it would put hooks for gradients on what never has any
            for parameter in one.parameters() if one is not None else ():
                if not parameter.requires_grad:
                    nothing = torch.utils.hooks.RemovableHandle(OrderedDict())
                    tracker._param_to_grad_hook_handles[parameter] = (nothing, nothing)
        tracker.track_external(model, optimizer, *([reference] if reference is not None else []))
        pairs = 2 if case.method in ("dpo", "reward") else 1
        with tracker:
            for parameter in trained:  # a step before: from the first on there is an optimizer's state
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            for _ in range(2):
                _loss(case, model, reference, (case.samples * pairs, case.tokens)).backward()
        peak = tracker.get_tracker_snapshot("peak")
    found = max(sum(size for kind, size in kinds.items() if _is_total(kind)) for kinds in peak.values())
    del model, reference, optimizer, tracker, trained
    gc.collect()
    return int(found)


def _group_in_float32() -> None:
    """Let experts multiply in float32: without memory torch's grouped_mm takes bfloat16 only, transformers' stand-in any."""
    import torch
    from transformers.integrations import moe

    usable = moe._can_use_grouped_mm
    if not hasattr(usable, "asked"):
        def asked(input: Any, weight: Any, offs: Any) -> bool:
            return bool(weight.dtype == torch.bfloat16 and usable(input, weight, offs))

        asked.asked = True  # type: ignore[attr-defined]
        moe._can_use_grouped_mm = asked


def _whole_tracker() -> Any:
    """A MemTracker of the process as a whole: module by module it takes one forward pass at a time, and is slow."""
    from torch.distributed._tools.mem_tracker import MemTracker

    class Whole(MemTracker):  # type: ignore[no-untyped-call,unused-ignore]
        def _pre_fw_hook(self, module: Any, inputs: Any) -> None:
            pass

        def _post_fw_hook(self, module: Any, inputs: Any, outputs: Any) -> None:
            pass

        def _pre_bw_hook(self, module: Any, args: Any) -> None:
            pass

        def _post_bw_hook(self, module: Any, args: Any) -> None:
            pass

    return Whole()


def _is_total(kind: Any) -> bool:
    return str(getattr(kind, "value", kind)) == "Total"


def _models(case: Case) -> tuple[Any, Any]:
    """The model that is trained, and the one that it is compared with."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    numbers = {key: value for key, value in case.config.items() if key != "model_type"}
    config = AutoConfig.for_model(case.config["model_type"], **numbers, pad_token_id=0)
    config.use_cache = False
    dtype = torch.bfloat16 if case.adapter else torch.float32
    if case.method == "reward":
        config.num_labels = 1
    kind: Any = AutoModelForSequenceClassification if case.method == "reward" else AutoModelForCausalLM
    model, reference = kind.from_config(config, dtype=dtype), None
    if case.method == "dpo" and not case.adapter:
        reference = kind.from_config(config, dtype=dtype).requires_grad_(False)
    if case.method != "reward":
        from trl.trainer.utils import add_fused_lm_head

        from hpctrain.train.tune.model import name_backbone

        for one in (model, reference):
            if one is not None:
                add_fused_lm_head(name_backbone(one), outputs=("log_probs", "entropy"))
    if case.adapter:
        model = _adapted(case, model)
    if case.again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if case.adapter:
            model.enable_input_require_grads()
    return model.train(), reference


def _ready(model: Any, reference: Any) -> tuple[Any, Any]:
    """The models with tensors that have a device and no memory."""
    import torch

    for one in (model, reference):
        seen: dict[int, Any] = {}
        for module in one.modules() if one is not None else ():
            for name, value in module._parameters.items():
                if value is not None:
                    empty = torch.empty_like(value, device="cpu")
                    seen.setdefault(id(value), torch.nn.Parameter(empty, requires_grad=value.requires_grad))
                    module._parameters[name] = seen[id(value)]
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else torch.empty_like(value, device="cpu")
    return model, reference


def _adapted(case: Case, model: Any) -> Any:
    """With the adapter as the trainer makes it."""
    from peft import get_peft_model

    from hpctrain.train.tune.model import adapter_config

    adapter = case.recipe.adapter
    assert adapter is not None
    return get_peft_model(model, adapter_config(adapter, reward=case.method == "reward"))


def _loss(case: Case, model: Any, reference: Any, shape: tuple[int, int]) -> Any:
    """The loss of one pass."""
    import torch

    inputs = torch.zeros(shape, dtype=torch.long)
    mixed = torch.autocast("cpu", dtype=torch.bfloat16)
    if case.method == "reward":
        with mixed:
            better, worse = model(input_ids=inputs).logits.squeeze(-1).chunk(2)
        return -torch.nn.functional.logsigmoid(better.float() - worse.float()).mean()
    if case.method != "dpo":
        with mixed:
            return model(input_ids=inputs, labels=inputs, fused_lm_head=True).loss
    with mixed:
        with torch.no_grad():
            if reference is not None:
                theirs = reference(input_ids=inputs, labels=inputs, fused_lm_head=True)
            else:
                with model.disable_adapter():
                    theirs = model(input_ids=inputs, labels=inputs, fused_lm_head=True)
        ours = model(input_ids=inputs, labels=inputs, fused_lm_head=True)
    margin = (ours.log_probs - theirs.log_probs).sum(-1)
    better, worse = margin.chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (better - worse)).mean()


def rows(cases: tuple[Case, ...]) -> Iterator[tuple[Case, int, int]]:
    """Case, arithmetic and count, one after the other."""
    for case in cases:
        yield case, expected_bytes(case), counted_bytes(case)


def main(arguments: list[str]) -> int:
    """Print the table; exit code 1 if a ratio is off by more than is allowed."""
    cases = SHORT if "--short" in arguments else LONG
    if "--only" in arguments:
        cases = tuple(case for case in cases if arguments[arguments.index("--only") + 1] in case.name)
    print("| case | arithmetic | counted | ratio |\n|---|---:|---:|---:|")
    worst, begun = 0.0, time.monotonic()
    for case, ours, theirs in rows(cases):
        worst = max(worst, abs(ours / theirs - 1))
        print(f"| {case.name} | {ours / GIB:.2f} GiB | {theirs / GIB:.2f} GiB | {ours / theirs:.3f} |", flush=True)
    seconds = time.monotonic() - begun
    print(f"\nLargest difference {worst:.1%} of {len(cases)} cases, allowed {ALLOWED:.0%}; {seconds:.0f} s.")
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
