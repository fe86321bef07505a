"""The language model: new tokens, precision, adapters, padding; on a tiny Qwen2 in the published format."""

from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_speech_llm import LLM as SIZES
from toy_speech_llm import save_published
from transformers import WhisperConfig

from espnet_mt_llm.common import UserError
from espnet_mt_llm.models.llm import LLM, load_llm
from espnet_mt_llm.text.llm_tokenizer import LLMTokenizer, load_tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_published(tmp_path_factory.mktemp("llm"))


def load(path: Path, new: tuple = (), **conf: Any) -> tuple[LLM, LLMTokenizer]:
    tokenizer = load_tokenizer(path)
    size = len(tokenizer)
    tokenizer.add_tokens(new)
    return load_llm(str(path), **conf, tokenizer=tokenizer, published_tokens=size), tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_change_nothing_of_the_others(tmp_path: Path, tied: bool) -> None:
    path = save_published(tmp_path, tied)
    plain, tokenizer = load(path)
    size = len(tokenizer)
    llm, tokenizer = load(path, ("<one>", "<two>"))
    ids = torch.tensor([[5, 2, 7, 9]])
    assert torch.equal(llm.embed(ids), plain.embed(ids))
    hidden = plain.hidden(plain.embed(ids))
    logits = llm.logits(hidden)
    assert logits.size(-1) == size + 2 == len(tokenizer) == llm.model.config.vocab_size
    torch.testing.assert_close(logits[..., :size], plain.logits(hidden)[..., :size])
    new = llm.embed(torch.tensor([size, size + 1]))
    assert not torch.equal(new[0], new[1])
    if tied:
        torch.testing.assert_close(logits[..., size:], hidden @ new.T)
    rows = [name for name, _ in llm.named_parameters() if name.endswith("new_rows")]
    assert len(rows) == (1 if tied else 2)


def test_rows_of_new_tokens_get_gradients_from_input_and_output(directory: Path) -> None:
    llm, tokenizer = load(directory, ("<one>", "<two>"))
    rows = llm.model.get_input_embeddings().new_rows
    first = len(tokenizer) - 2
    llm.hidden(llm.embed(torch.tensor([[first, 3]])))[0, 1, 0].backward()
    assert rows.grad[0].abs().sum() > 0 and rows.grad[1].abs().sum() == 0
    rows.grad = None
    llm.logits(torch.randn(1, llm.hidden_size))[0, first + 1].backward()
    assert rows.grad[1].abs().sum() > 0 and rows.grad[0].abs().sum() == 0


def test_generates_new_tokens_and_reads_them(directory: Path) -> None:
    llm, tokenizer = load(directory, ("<one>",))
    with torch.no_grad():
        llm.model.get_input_embeddings().new_rows.mul_(0).add_(100.0)
    embeds = llm.embed(torch.tensor([[4, 5]])) + 50
    out = llm.model.eval().generate(inputs_embeds=embeds, attention_mask=torch.ones(1, 2, dtype=torch.long),
                                    max_new_tokens=3, do_sample=False)
    assert out.max() < len(tokenizer) and out.shape[1] >= 1


def test_padding_in_front_changes_nothing(directory: Path) -> None:
    llm, _ = load(directory)
    embeds = torch.randn(1, 6, llm.hidden_size, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([torch.randn(1, 3, llm.hidden_size), embeds], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    with torch.no_grad():
        torch.testing.assert_close(llm.hidden(padded, mask)[:, 3:], llm.hidden(embeds))
        behind = torch.cat([embeds, torch.randn(1, 3, llm.hidden_size)], dim=1)
        torch.testing.assert_close(llm.hidden(behind)[:, :6], llm.hidden(embeds))


def test_precision_is_that_of_the_configuration(directory: Path) -> None:
    llm, _ = load(directory, ("<one>",), dtype="bfloat16", lora={"rank": 2})
    llm.to(dtype=torch.float32).double()
    kinds = {name: p.dtype for name, p in llm.named_parameters()}
    for name, kind in kinds.items():
        assert kind == (torch.float32 if "lora_" in name or name.endswith("new_rows") else torch.bfloat16), name
    ids = torch.tensor([[len(load_tokenizer(directory)), 3, 4]])
    hidden = llm.hidden(llm.embed(ids))
    assert llm.dtype == hidden.dtype == llm.logits(hidden).dtype == torch.bfloat16


def test_gradient_checkpointing_gives_the_same_gradients(directory: Path) -> None:
    grads = []
    for flag in (False, True):
        llm, _ = load(directory, gradient_checkpointing=flag)
        llm.train().hidden(llm.embed(torch.tensor([[1, 2, 3]]))).square().sum().backward()
        grads.append(llm.model.model.layers[0].mlp.up_proj.weight.grad)
    assert llm.model.is_gradient_checkpointing
    torch.testing.assert_close(*grads)


def test_adapters_change_nothing_at_first(directory: Path) -> None:
    plain, _ = load(directory)
    llm, _ = load(directory, lora={"rank": 2, "targets": ["up_proj", "q_proj"]})
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(llm.eval().hidden(llm.embed(ids)), plain.eval().hidden(plain.embed(ids)))
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in llm.named_parameters() if ".lora_" in name}
    assert layers == {"up_proj", "q_proj"}


def test_heads_wider_than_their_share_turn_slower_with_a_larger_base(directory: Path) -> None:
    """Rotary embedding (arXiv 2104.09864): the k-th pair of D dimensions turns by base^(-2k / D) a position."""
    config = {**SIZES, "num_attention_heads": 4, "head_dim": 24,
              "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    tokenizer = load_tokenizer(directory)
    llm = load_llm(config=config, tokenizer=tokenizer, published_tokens=len(tokenizer))
    assert llm.model.model.layers[0].self_attn.q_proj.out_features == 96
    torch.testing.assert_close(llm.model.model.rotary_emb.inv_freq, 5e5 ** (-torch.arange(0, 24, 2) / 24))


@pytest.mark.parametrize("conf, message", [
    ({"checkpoint": ""}, "give 'checkpoint' or 'config', one of them; download Qwen"),
    ({"checkpoint": "nowhere"}, "nowhere/config.json: no such file; download Qwen/Qwen2.5"),
    ({"dtype": "bf16"}, "dtype 'bf16'; did you mean 'bfloat16'"),
    ({"lora": {"rnak": 4}}, r"llm_conf: lora: unknown key 'rnak'; did you mean 'rank'\?"),
    ({"lora": {"targets": ["q_prj"]}}, "llm_conf: lora: targets: there is no layer 'q_prj'; linear layers: .*q_proj"),
    ({"checkpoint": "", "config": {**SIZES, "hidden_sizes": 3}},
     r"llm_conf: config: unknown key 'hidden_sizes'; did you mean 'hidden_size'\?"),
    ({"checkpoint": "", "config": {**SIZES, "model_type": "qwen2x"}}, "model_type 'qwen2x'; did you mean 'qwen2"),
    ({"checkpoint": "", "config": {**SIZES, "hidden_act": "nope"}}, "transformers refuses it"),
])
def test_bad_configuration(directory: Path, conf: dict, message: str) -> None:
    tokenizer = load_tokenizer(directory)
    with pytest.raises(UserError, match=message):
        load_llm(**{"checkpoint": str(directory), **conf}, tokenizer=tokenizer, published_tokens=len(tokenizer))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _without_a_layer(path: Path) -> None:
    state = {key: value for key, value in load_file(path).items() if ".layers.1.mlp." not in key}
    save_file(state, path, {"format": "pt"})


def _of_another_kind(path: Path) -> None:
    WhisperConfig().save_pretrained(path.parent)


@pytest.mark.parametrize("spoil, message", [
    (_cut, "transformers cannot load it .*; download"),
    (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "transformers cannot load it .*; down"),
    (lambda path: (path.parent / "config.json").write_text("[]"), "the tokenizer cannot be read"),
    (_of_another_kind, "; download"),
    (_without_a_layer, r"weights are missing: model.layers.1.mlp.down_proj.weight, .* \(3\); download"),
], ids=["half a file", "a pointer of git-lfs", "no mapping", "another kind", "a layer is missing"])
def test_what_is_no_whole_model_is_refused(tmp_path: Path, spoil: Callable, message: str) -> None:
    spoil(save_published(tmp_path) / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_tokenizer_of_another_model(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    with pytest.raises(UserError, match="the tokenizer has 99999 tokens, the model"):
        load_llm(str(directory), tokenizer=tokenizer, published_tokens=99999)
