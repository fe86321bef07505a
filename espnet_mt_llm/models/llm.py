"""A causal language model of transformers: from a local directory or from a configuration, adapters, new tokens."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Optional

import torch
from torch.nn import functional as F

from espnet_mt_llm.common import UserError, at, is_whole, listed, nearest
from espnet_mt_llm.models.lora import add_lora
from espnet_mt_llm.text.llm_tokenizer import LLMTokenizer

WANTED = ("download Qwen/Qwen2.5-0.5B-Instruct, or another causal language model, of huggingface.co to "
          "downloads/Qwen2.5-0.5B-Instruct and give that directory as llm_conf: checkpoint, or give llm_conf: config "
          "for a small one with random weights")
DTYPES = ("float32", "bfloat16", "float16")
# The linear layers of the attention in Qwen2, Llama, Mistral and their like.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
# What some models do to their logits behind the output layer.
SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


class NewTokenEmbedding(torch.nn.Module):
    """Embeddings of which those of new tokens alone, the last ones, are trained.

    Args:
        base_layer: the published embeddings, frozen.
        first: id of the first new token.
        count: of new tokens.
    """

    def __init__(self, base_layer: torch.nn.Embedding, first: int, count: int) -> None:
        super().__init__()
        self.base_layer, self.first = base_layer, first
        self.new_rows = torch.nn.Parameter(drawn_alike(base_layer.weight[: first], count))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return ``(…, H)`` of ``ids`` ``(…)``."""
        is_new = (ids >= self.first).unsqueeze(-1)
        new = F.embedding((ids - self.first).clamp(min=0), self.new_rows).to(self.base_layer.weight.dtype)
        return torch.where(is_new, new, self.base_layer(ids.clamp(max=self.first - 1)))


class NewTokenHead(torch.nn.Module):
    """The output layer for :class:`NewTokenEmbedding`; the logits end with those of the new tokens.

    Args:
        base_layer: the published layer, frozen.
        embedding: whose rows it shares; None where input and output are not tied.
        first, count: see :class:`NewTokenEmbedding`.
    """

    def __init__(self, base_layer: torch.nn.Linear, embedding: Optional[NewTokenEmbedding], first: int, count: int
                 ) -> None:
        super().__init__()
        self.base_layer, self.first = base_layer, first
        self.new_rows = embedding.new_rows if embedding is not None else torch.nn.Parameter(
            drawn_alike(base_layer.weight[: first], count))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits ``(…, first + count)`` of ``hidden`` ``(…, H)``; rows without a token are left out."""
        bias = self.base_layer.bias
        known = F.linear(hidden, self.base_layer.weight[: self.first], None if bias is None else bias[: self.first])
        return torch.cat([known, F.linear(hidden, self.new_rows.to(hidden.dtype))], dim=-1)


def drawn_alike(weight: torch.Tensor, count: int) -> torch.Tensor:
    """Draw ``(count, H)`` rows with mean and standard deviation of the rows of ``weight`` ``(V, H)``, in float32."""
    with torch.no_grad():
        mean, std = weight.float().mean(0), weight.float().std(0)
        return mean + std * torch.randn(count, weight.size(1))


class LLM(torch.nn.Module):
    """A causal language model that reads embeddings.

    Args:
        model: of transformers.
        published: whether its weights are those of a published model.
        dtype: of its weights; adapters may have another.

    Attributes:
        hidden_size: H.
        max_positions: the longest input it was made for.
    """

    def __init__(self, model: torch.nn.Module, published: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.published, self.dtype = model, published, dtype
        self.hidden_size: int = model.config.hidden_size
        self.max_positions: int = model.config.max_position_embeddings

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings ``(…, H)`` of token ids ``(…)``."""
        return self.model.get_input_embeddings()(ids)

    def hidden(self, embeds: torch.Tensor, mask: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return the last hidden states ``(B, P, H)``, see :meth:`states`."""
        return self.states(embeds, mask)[0]

    def states(self, embeds: torch.Tensor, mask: Optional[torch.Tensor] = None, layer: Optional[int] = None
               ) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Return the last hidden states ``(B, P, H)``, and those behind the first ``layer`` layers when it is given.

        Args:
            embeds: ``(B, P, H)``.
            mask: ``(B, P)``, 1 inside; None where padding is at the end alone, behind everything that is used:
                attention looks back only, and its fastest kernels take no mask.
        """
        places = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
        out = self.model.base_model(inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False,
                                    output_hidden_states=layer is not None)
        return out.last_hidden_state, None if layer is None else out.hidden_states[layer]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return ``(…, V)`` of hidden states ``(…, H)``."""
        return self.model.get_output_embeddings()(hidden)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "LLM":
        """Move to a device; the precision stays as it was chosen, whatever that of the training is."""
        return super()._apply(lambda tensor: fn(tensor).to(tensor.dtype), recurse)


def load_llm(checkpoint: str = "", config: Optional[Mapping[str, Any]] = None,
             lora: Optional[Mapping[str, Any]] = None, dtype: str = "float32", gradient_checkpointing: bool = False,
             attention: str = "sdpa", *, tokenizer: LLMTokenizer, published_tokens: int) -> LLM:
    """Load or build a language model.

    Args:
        checkpoint: directory of transformers: config.json and weights.
        config: entries of a config.json instead, ``model_type`` qwen2 by default; the weights are random. The size of
            the vocabulary is that of the tokenizer.
        lora: fields of :class:`~espnet_mt_llm.models.lora.Lora`; None for no adapters.
        dtype: precision of the weights; adapters and rows of new tokens are in single precision.
        gradient_checkpointing: hidden states are computed again for the gradient, not kept.
        attention: implementation in transformers: ``sdpa``, ``eager``, ``flash_attention_2``.
        tokenizer: with the new tokens.
        published_tokens: how many tokens it had before them; the rows of those from there on are trained by themselves.

    Raises:
        UserError: no such model, or options that make no sense.
    """
    if bool(checkpoint) == bool(config):
        raise UserError(f"llm_conf: give 'checkpoint' or 'config', one of them; {WANTED}")
    if dtype not in DTYPES:
        raise UserError(f"llm_conf: dtype '{dtype}'; {nearest(str(dtype), DTYPES)}")
    precision = getattr(torch, dtype)
    model = _pretrained(checkpoint, precision, attention) if checkpoint else _fresh(config, precision, attention,
                                                                                    tokenizer)
    for key in SCALES:
        if getattr(model.config, key, None) not in (None, 1, 1.0):
            raise UserError(f"llm_conf: a model with {key} is not supported; use Qwen2.5 or the like")
    if checkpoint:
        _add_tokens(model, len(tokenizer) - published_tokens, published_tokens, checkpoint)
    if lora is not None:
        add_lora(model, lora, TARGETS, "llm_conf: lora")
    if gradient_checkpointing:
        # Renamed in transformers 5.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    return LLM(model, bool(checkpoint), precision)


def _pretrained(checkpoint: str, dtype: torch.dtype, attention: str) -> torch.nn.Module:
    path = Path(checkpoint)
    if not (path / "config.json").is_file():
        raise at(path / "config.json", None, "no such file", WANTED)
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            str(path), local_files_only=True, dtype=dtype, attn_implementation=attention, output_loading_info=True)
    except Exception as e:
        # Half a file, a pointer of git-lfs, another kind of model: every library below has exceptions of its own.
        raise at(path, None, f"transformers cannot load it ({(str(e) or type(e).__name__).splitlines()[0]})", WANTED
                 ) from None
    # Such weights would be drawn at random, other ones at each loading.
    missing = sorted(found["missing_keys"])
    if missing:
        raise at(path, None, f"weights are missing: {listed(missing)} ({len(missing)})", WANTED)
    for key in ("hidden_size", "max_position_embeddings"):
        if not hasattr(model.config, key):
            raise at(path / "config.json", None, f"no '{key}': not a language model that reads embeddings", WANTED)
    return model


def _fresh(config: Mapping[str, Any], dtype: torch.dtype, attention: str, tokenizer: LLMTokenizer) -> torch.nn.Module:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    values = dict(config)
    kind = values.pop("model_type", "qwen2")
    if kind not in CONFIG_MAPPING:
        raise UserError(f"llm_conf: config: model_type '{kind}'; {nearest(str(kind), CONFIG_MAPPING.keys())}")
    # The attention of Llama's kin, Qwen2's too, reads head_dim, whether or not its configuration names it.
    valid = {"head_dim", *(f.name for f in fields(CONFIG_MAPPING[kind]))}
    for key in values:
        if key not in valid:
            raise UserError(f"llm_conf: config: unknown key '{key}'; {nearest(str(key), valid)}")
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if is_whole(width) and is_whole(heads) and not values.get("head_dim") and (heads < 1 or width % heads):
        raise UserError(f"llm_conf: config: hidden_size {width} is no multiple of num_attention_heads {heads}; change "
                        "one of them, or give head_dim")
    values |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.end_id,
               "bos_token_id": None}
    try:
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**values), dtype=dtype,
                                                attn_implementation=attention)
    except Exception as e:
        # Its configuration classes raise what they like.
        raise UserError(f"llm_conf: config: transformers refuses it ({e})") from None


def _add_tokens(model: torch.nn.Module, count: int, first: int, checkpoint: str) -> None:
    """Give the ``count`` tokens from id ``first`` on rows of their own."""
    known = model.get_input_embeddings().weight.size(0)
    if first > known:
        raise at(checkpoint, None, f"the tokenizer has {first} tokens, the model {known}", "use files of one model")
    if not count:
        return
    tied = model.config.get_text_config().tie_word_embeddings
    embedding = NewTokenEmbedding(model.get_input_embeddings(), first, count)
    model.set_output_embeddings(NewTokenHead(model.get_output_embeddings(), embedding if tied else None, first, count))
    model.set_input_embeddings(embedding)
    model.config.get_text_config().vocab_size = first + count
