"""A loaded model: likelihoods, answers and marks are those of the plain computation, whatever the batches."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax

from hpctrain.errors import HpctrainError, NotFoundError, RecipeError
from hpctrain.evaluate.codec import ByteCodec, codec_of, pair_tokens, prompt_tokens
from hpctrain.evaluate.examples import Pair
from hpctrain.evaluate.language_model import LanguageModel, Place
from hpctrain.evaluate.loading import load
from hpctrain.evaluate.model_directory import inspect
from tests.unit.evaluate import tiny

CPU = Place(device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes."""
    return tiny.causal(tmp_path_factory.mktemp("models") / "causal")


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    """The same, loaded."""
    return load(str(folder), CPU)


def test_likelihoods_do_not_depend_on_batches(model: LanguageModel) -> None:
    """The cost of each text in a ragged batch is that of the text alone, computed token by token."""
    texts = [([256, *range(65, 65 + size)], 1 + size // 3) for size in (1, 4, 9, 2, 30, 17)]
    found = model.negative_log_likelihoods(texts)

    for (tokens, first), cost in zip(texts, found, strict=True):
        with torch.no_grad():
            likely = log_softmax(model.model(torch.tensor([tokens[:-1]])).logits[0].double(), dim=-1)
        plain = -sum(float(likely[index - 1, tokens[index]]) for index in range(first, len(tokens)))
        assert plain == pytest.approx(cost, rel=1e-4)


def test_answers_do_not_depend_on_batches(model: LanguageModel) -> None:
    """Prompts of different lengths in one batch get the answers that each gets alone: padding is not seen."""
    prompts = ["a", "once upon a time", "2 + 2 =", [{"role": "user", "content": "hello"}]]

    together = model.generate(prompts, max_new_tokens=12)

    assert [model.generate([prompt], max_new_tokens=12)[0] for prompt in prompts] == together
    assert any(together)


def test_answers_end_at_the_end_of_text(tmp_path: Path) -> None:
    """Nothing is told of what comes behind the end-of-text token, and special tokens are not text."""
    model = load(str(tiny.causal(tmp_path / "m", uniform=True)), CPU)
    with torch.no_grad():
        model.model.lm_head.weight[256] = 1.0
        model.model.model.norm.weight.fill_(0.0)
        model.model.lm_head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(256), 258).float())

    assert ["", ""] == model.generate(["x", "yy"], max_new_tokens=5)


def test_long_prompts_and_texts_keep_their_end(model: LanguageModel) -> None:
    """What is longer than the model takes loses its beginning, so that what is asked for stays."""
    tokens, first = model.fit(list(range(200)), 190)

    assert (list(range(103, 200)), 87) == (tokens, first)
    assert (list(range(103, 200)), 1) == model.fit(list(range(200)), 20)
    assert 1 == len(model.generate(["x" * 500], max_new_tokens=8))


def test_window_of_training(folder: Path) -> None:
    """A text is measured in pieces of the length that the model was trained on, where that is known."""
    assert (96, 16) == (load(str(folder), CPU).window, load(str(folder), Place(device="cpu", sequence_length=16)).window)


def test_pairs_are_divided_where_the_prompt_ends(folder: Path) -> None:
    """What is predicted is the completion and its end, in texts and in conversations."""
    codec = codec_of(inspect(folder))
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}

    tokens, first = pair_tokens(codec, Pair("2+2=", "4"))
    assert ([*b"2+2=4", 256], 4) == (tokens, first)
    tokens, first = pair_tokens(codec, Pair("", "ab"))
    assert ([256, *b"ab", 256], 1) == (tokens, first)
    tokens, first = pair_tokens(codec, Pair([user], [assistant]))
    assert "yo" == codec.decode(tokens[first:])
    assert prompt_tokens(codec, [user]) == tokens[:first]


def test_chats_without_a_template(tmp_path: Path) -> None:
    """A conversation for a tokenizer without a chat template is one clear error; another model's template may be lent."""
    folder = tiny.causal(tmp_path / "m")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    prompt = [{"role": "user", "content": "hi"}]

    with pytest.raises(RecipeError, match="no chat template"):
        prompt_tokens(codec_of(inspect(folder)), prompt)
    with pytest.raises(RecipeError, match="refuses a conversation"):
        prompt_tokens(codec_of(inspect(folder), "{{ raise_exception('not this') }}"), prompt)
    assert [*b"hi!"] == prompt_tokens(codec_of(inspect(folder), "{{ messages[0]['content'] }}!"), prompt)


def test_byte_tokenizer_of_older_runs(tmp_path: Path) -> None:
    """A model with nothing but hpctrain_tokenizer.json is read byte by byte."""
    folder = tiny.causal(tmp_path / "m")
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "hpctrain_tokenizer.json").write_text("{}")

    model = load(str(folder), CPU)

    assert isinstance(model.codec, ByteCodec)
    assert 1 == len(model.generate(["abc"], max_new_tokens=3))
    with pytest.raises(RecipeError, match="no chat template"):
        model.generate([[{"role": "user", "content": "hi"}]], max_new_tokens=3)


def test_reward_models_mark(tmp_path: Path, model: LanguageModel) -> None:
    """Marks of a ragged batch are those of each text alone; a model does only what it is for."""
    marker = load(str(tiny.reward(tmp_path / "r")), CPU)
    texts = [[*b"good", 256], [*b"a much longer answer", 256], [65]]

    together = marker.scores(texts)

    assert together == pytest.approx([marker.scores([text])[0] for text in texts], rel=1e-4)
    assert len(set(together)) == 3
    with pytest.raises(RecipeError, match="reward model"):
        marker.generate(["x"], max_new_tokens=1)
    with pytest.raises(RecipeError, match="reward model"):
        marker.negative_log_likelihoods([([1, 2], 1)])
    with pytest.raises(RecipeError, match="no reward model"):
        model.scores([[1]])


def test_adapters_are_put_on_their_model(tmp_path: Path, folder: Path) -> None:
    """An adapter's directory is loaded together with its base, and gives what the merged model gives."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder),
                                  peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    texts = [([256, *b"some text"], 1)]

    adapter, merged = (load(str(tmp_path / name), CPU) for name in ("adapter", "merged"))

    assert adapter.negative_log_likelihoods(texts) == pytest.approx(merged.negative_log_likelihoods(texts), rel=1e-4)
    base = load(str(folder), CPU)
    assert adapter.negative_log_likelihoods(texts) != pytest.approx(base.negative_log_likelihoods(texts), rel=1e-3)
    shutil.rmtree(tmp_path / "merged")
    settings = tmp_path / "adapter/adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(NotFoundError, match="no such model directory"):
        inspect(tmp_path / "adapter")


@pytest.mark.parametrize(("damage", "words"), [
    ("no weights", "no weights"), ("cut", "cut off"), ("no shard", "1 of its 1 files of weights are missing"),
    ("no config", "neither config.json"), ("header", "damaged or cut off"), ("empty", "no such model"),
])
def test_incomplete_directories(tmp_path: Path, folder: Path, damage: str, words: str) -> None:
    """What a model directory lacks is named before anything is loaded."""
    target = tmp_path / "m"
    if damage != "empty":
        shutil.copytree(folder, target)
    weights = target / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "header":
        weights.write_bytes(b"\xff" * 20)
    elif damage == "no config":
        (target / "config.json").unlink()
    elif damage == "no shard":
        index = {"weight_map": {"x": "model-00001-of-00001.safetensors"}}
        (target / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(NotFoundError, match=words):
        inspect(target)


def test_no_gpu_is_one_error(folder: Path) -> None:
    """A GPU that is asked for and not there is told, with what to do."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(HpctrainError, match="no GPU"):
        load(str(folder), Place(device="cuda"))


def test_identity_follows_the_contents(tmp_path: Path) -> None:
    """The same model saved again has the same identity, another one has not."""
    one, again, other = (tiny.causal(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))

    assert inspect(one).identity == inspect(again).identity != inspect(other).identity
    assert math.isfinite(load(str(one), CPU).negative_log_likelihoods([([1, 2], 1)])[0])
