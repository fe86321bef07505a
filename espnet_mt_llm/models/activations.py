"""Bytes that a training step of a speech LLM keeps for its gradients, from the sizes of its parts.

What autograd keeps of a layer, for each position (b: bytes of the weights' precision; H, F, Q, K: widths of a block, of
its feed-forward, of all query and of all key heads; m: 4 bytes for a dropout mask on the CPU, 1 on a GPU)::

    linear, trained              b in                     its input; once for layers that share it
    linear with LoRA of rank r   (m + 4) in + 4 r         mask, input in single precision, output of A; frozen: m in
    linear, frozen               0
    RMSNorm                      4 H + 4 (+ b H)          its input, a scale (the product, where its weight is trained)
    LayerNorm                    b H + 8                  its input, mean, scale
    attention, fused             b (2 Q + 2 K) + 4 heads  queries, keys, values, output, log-sum-exp
    attention with dropout, CPU  4 (5 Q + 3 heads T)      two copies, three matrices of T positions for each head
    SwiGLU                       3 b F                    gate, its SiLU, the other factor
    GELU, ReLU                   b F
    dropout                      m H
    cross entropy                4 V                      log-probabilities, of target tokens alone

With gradient checkpointing a block keeps its input, b H, and one block at a time the rest, when it is run again.
"""

from collections.abc import Callable, Iterable
from typing import Any, Optional

import torch

from espnet_mt_llm.models.base import learns
from espnet_mt_llm.models.llm import LLM
from espnet_mt_llm.nets.projectors import GLUProjector, MLPAdapter, Projector, TransformerProjector
from espnet_mt_llm.nets.speaker_stream import SpeakerStream


class Kept:
    """Sums up what is kept for each of a number of positions; what has a name is kept once.

    Args:
        positions: n.
        element: bytes of a value, b.
        gpu: whether masks are of one byte, and attention is fused with dropout too.
    """

    def __init__(self, positions: int, element: int = 4, gpu: bool = True) -> None:
        self.positions, self.element, self.gpu = positions, element, gpu
        self._named: dict[str, float] = {}
        self._unnamed = 0.0

    @property
    def total(self) -> int:
        """Bytes."""
        return round(self.positions * (sum(self._named.values()) + self._unnamed))

    def values(self, count: float, name: Optional[str] = None) -> None:
        """Keep ``count`` values for each position, of the tensor ``name``."""
        if name is None:
            self._unnamed += self.element * count
        else:
            self._named[name] = self.element * count

    def singles(self, count: float) -> None:
        """Keep ``count`` values in single precision."""
        self._unnamed += 4 * count

    def dropout(self, module: Any, count: int) -> None:
        """Keep the mask of a dropout, where there is one."""
        if module.training and module.p > 0:
            self._unnamed += count * (1 if self.gpu else 4)

    def linear(self, module: torch.nn.Module, source: str, learnt: bool = True) -> None:
        """Keep what a linear layer needs, which reads the tensor ``source``; ``learnt``: that has a gradient."""
        base = getattr(module, "base_layer", module)
        if base is not module:
            rank, dropout = module.r["default"], module.lora_dropout["default"]
            trained = module.lora_A["default"].weight.requires_grad
            drops = getattr(dropout, "p", 0) > 0 and dropout.training
            if drops and learnt:
                self.dropout(dropout, base.in_features)
            if trained and not drops and self.element == 4:
                self.values(base.in_features, source)
            elif trained:
                self.singles(base.in_features)
            if trained:
                self.singles(rank)
        if base.weight.requires_grad:
            self.values(base.in_features, source)

    def layer_norm(self, module: torch.nn.Module, learnt: bool = True) -> None:
        """Keep what a LayerNorm needs; ``learnt``: its input has a gradient."""
        if learnt or module.weight.requires_grad:
            self.values(module.normalized_shape[0])
            self.singles(2)

    def rms_norm(self, module: torch.nn.Module) -> None:
        """Keep what an RMSNorm needs, which computes in single precision."""
        size = module.weight.numel()
        self.singles(size + 1)
        if module.weight.requires_grad:
            self.values(size)

    def attention(self, query: int, key: int, heads: int, dropout: bool = False, output: Optional[str] = None) -> None:
        """Keep queries, keys, values, and what the kernel needs; ``output`` names its result."""
        self.values(query + 2 * key)
        if dropout and not self.gpu:
            self.values(2 * query + 3 * heads * self.positions)
            return
        self.singles(heads)
        self.values(query, output)


def llm_bytes(llm: LLM, positions: int, targets: int, vocabulary: int, gpu: bool = True) -> tuple[int, int]:
    """Return bytes kept by a language model in all, and those more while the gradients are computed.

    Args:
        llm: a model with the layers of Qwen2 (Llama, Mistral), as it is trained.
        positions: of its input.
        targets: tokens of the target.
        vocabulary: V.
        gpu: see :class:`Kept`.

    Raises:
        ValueError: other layers.
    """
    model, config = llm.model.base_model, llm.model.config
    element = llm.dtype.itemsize
    blocks = list(model.layers)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    block = Kept(positions, element, gpu)
    parts = [name for name, _ in blocks[0].named_children()]
    if parts != ["self_attn", "mlp", "input_layernorm", "post_attention_layernorm"] or hasattr(
            blocks[0].self_attn, "q_norm"):
        raise ValueError(f"no formula for the layers of '{config.model_type}'; there is one for those of Qwen2")
    _llm_block(block, blocks[0], config.num_attention_heads * head_size, config.num_key_value_heads * head_size,
               config)
    rest = Kept(positions, element, gpu)
    rest.rms_norm(model.norm)
    rest.values(config.hidden_size)  # what the places of the target are taken from
    loss = Kept(targets, element, gpu)
    loss.singles(vocabulary)
    if any(p.requires_grad for p in llm.model.get_output_embeddings().parameters()):
        loss.values(config.hidden_size)
    if getattr(model, "gradient_checkpointing", False):
        return len(blocks) * positions * element * config.hidden_size + rest.total + loss.total, block.total
    rest.values(2 * head_size)  # sines and cosines of the positions
    return len(blocks) * block.total + rest.total + loss.total, 0


def _llm_block(kept: Kept, block: torch.nn.Module, query: int, key: int, config: Any) -> None:
    kept.rms_norm(block.input_layernorm)
    for name in ("q_proj", "k_proj", "v_proj"):
        kept.linear(getattr(block.self_attn, name), "normalised")
    kept.attention(query, key, config.num_attention_heads, output="attended")
    kept.linear(block.self_attn.o_proj, "attended")
    kept.rms_norm(block.post_attention_layernorm)
    for name in ("gate_proj", "up_proj"):
        kept.linear(getattr(block.mlp, name), "normalised again")
    kept.values(3 * config.intermediate_size)
    kept.linear(block.mlp.down_proj, "gated")


def projector_bytes(projector: Projector, frames: int, gpu: bool = True) -> int:
    """Return bytes kept by a projector, of ``frames`` = T of its input."""
    if isinstance(projector, MLPAdapter):
        first, _, last, norm = projector.layers
        kept = Kept(frames, gpu=gpu)
        kept.linear(first, "frames")
        kept.values(first.out_features)
        kept.linear(last, "hidden")
        kept.layer_norm(norm)
        return kept.total
    if isinstance(projector, TransformerProjector):
        size = projector.convolution.in_channels
        end = Kept(frames, gpu=gpu)
        end.layer_norm(projector.transformer.norm)
        end.values(size)
        blocks = [_transformer_block(layer, frames, gpu) for layer in projector.transformer.layers]
        return sum(blocks) + end.total
    assert isinstance(projector, GLUProjector)
    total = 0
    for convolution in projector.convolutions:
        total += 4 * frames * convolution.in_channels
        frames = -(-frames // convolution.stride[0])
        total += 4 * frames * convolution.out_channels
    return total + 4 * frames * projector.output.in_features


def _transformer_block(layer: torch.nn.TransformerEncoderLayer, frames: int, gpu: bool) -> int:
    kept, size = Kept(frames, gpu=gpu), layer.linear1.in_features
    heads, dropout = layer.self_attn.num_heads, layer.self_attn.dropout > 0 and layer.training
    kept.layer_norm(layer.norm1)
    kept.values(size)
    kept.attention(size, size, heads, dropout)
    kept.values(size)
    kept.dropout(layer.dropout1, size)
    kept.layer_norm(layer.norm2)
    kept.linear(layer.linear1, "normalised")
    kept.values(layer.linear1.out_features)
    kept.dropout(layer.dropout, layer.linear1.out_features)
    kept.linear(layer.linear2, "activated")
    kept.dropout(layer.dropout2, size)
    return kept.total


def stream_bytes(stream: SpeakerStream, frames: int) -> int:
    """Return bytes kept by the convolution of the speaker stream, of ``frames`` before it, and by its fitting."""
    convolution = stream.convolution
    return 4 * frames * convolution.in_channels + 4 * -(-frames // convolution.stride[0]) * convolution.out_channels


def encoder_bytes(encoder: torch.nn.Module, name: str, frames: int, gpu: bool = True) -> int:
    """Return bytes kept by a speech encoder that is trained, or that has adapters; 0 for a frozen one.

    Args:
        encoder: as it is trained.
        name: of the encoder.
        frames: T of a clip.
        gpu: see :class:`Kept`.

    Raises:
        ValueError: there is no formula for this encoder.
    """
    if not learns(encoder):
        return 0
    if name not in ("sensevoice", "whisper"):
        raise ValueError(f"no formula for what '{name}' keeps while it is trained; there is one for sensevoice and "
                         "whisper")
    stack = encoder.encoder
    last = max(encoder.layers)
    if name == "sensevoice":
        # Four prompts stand before the frames.
        norms = [norm for norm, place in ((stack.after_norm, stack.num_main - 1),
                                          (stack.tp_norm, len(stack.blocks) - 1)) if place <= last]
        return _blocks_bytes(stack.blocks[: last + 1], norms, learns(encoder.embed), _sanm_block, frames + 4, gpu)
    window = min(frames, stack.config.max_source_positions)
    norms = [stack.layer_norm] if last == len(stack.layers) - 1 else []
    total = _blocks_bytes(stack.layers[: last + 1], norms, learns(stack.conv1), _whisper_block, window, gpu)
    if learns(stack.conv1):
        # Inputs of both convolutions, the first at twice the rate, inputs of both GELU, the mask.
        kept, size = Kept(window, gpu=gpu), stack.config.d_model
        kept.values(2 * stack.config.num_mel_bins + 5 * size)
        kept.values(size * _mask_share(stack, gpu))
        total += kept.total
    return round(total * frames / window)


def _blocks_bytes(blocks: Iterable[torch.nn.Module], norms: list[torch.nn.Module], learnt: bool,
                  block_bytes: Callable[[torch.nn.Module, int, bool, bool], int], frames: int, gpu: bool) -> int:
    """Sum up what blocks and norms keep; ``learnt``: the input of the first block has a gradient."""
    total = 0
    for block in blocks:
        if learnt or learns(block):
            total += block_bytes(block, frames, gpu, learnt)
            learnt = True
    end = Kept(frames, gpu=gpu)
    for norm in norms:
        end.layer_norm(norm)
    return total + end.total


def _mask_share(module: torch.nn.Module, gpu: bool) -> float:
    """Values of 4 bytes that a mask of one value takes, where ``module`` drops anything."""
    return (0.25 if gpu else 1.0) if module.training and module.dropout > 0 else 0.0


def _sanm_block(block: torch.nn.Module, frames: int, gpu: bool, learnt: bool) -> int:
    kept, attention, forward = Kept(frames, gpu=gpu), block.self_attn, block.feed_forward
    size = getattr(attention.linear_out, "base_layer", attention.linear_out).in_features
    inner = getattr(forward.w_1, "base_layer", forward.w_1).out_features
    kept.layer_norm(block.norm1, learnt)
    kept.linear(attention.linear_q_k_v, "normalised", learnt)
    # The convolution's input with its padding, and the mask.
    kept.values(size * (1 + sum(attention.padding) / frames) + 1)
    dropout = attention.dropout > 0 and attention.training
    kept.values(size * _mask_share(attention, gpu) if dropout else 1)
    kept.attention(size, size, attention.heads, dropout)
    kept.linear(attention.linear_out, "attended")
    kept.dropout(block.dropout, size)
    kept.layer_norm(block.norm2)
    kept.linear(forward.w_1, "normalised again")
    kept.values(inner)
    kept.dropout(forward.dropout, inner)
    kept.linear(forward.w_2, "activated")
    kept.dropout(block.dropout, size)
    return kept.total


def _whisper_block(block: torch.nn.Module, frames: int, gpu: bool, learnt: bool) -> int:
    kept, attention = Kept(frames, gpu=gpu), block.self_attn
    size = attention.embed_dim
    inner = getattr(block.fc1, "base_layer", block.fc1).out_features
    kept.layer_norm(block.self_attn_layer_norm, learnt)
    for name in ("q_proj", "k_proj", "v_proj"):
        kept.linear(getattr(attention, name), "normalised", learnt)
    kept.attention(size, size, attention.num_heads)
    kept.linear(attention.out_proj, "attended")
    kept.layer_norm(block.final_layer_norm)
    kept.linear(block.fc1, "normalised again")
    kept.values(inner + 1 + 2 * size * _mask_share(block, gpu))
    kept.linear(block.fc2, "activated")
    return kept.total
