#!/usr/bin/env python3
"""Layouts, forward and backward, against loops over clips and chunks, an MLP adapter and a training step.

Ours makes all positions of a batch in one lookup; the peer cuts and joins the chunks of each clip, and pads the clips
to one length, which is how published speech LLMs insert what they insert. The adapter (1024 to the LLM's width) and
the step of a small Qwen2 (forward, backward, AdamW) say how much of a training that is; packing puts the embeddings of
prompt and target around the audio. Positions and gradients of both sides are compared before they are timed. One
thread; CPU time, so that other programs on the machine do not count.
"""

import argparse
import statistics
import time
from typing import Callable

from report import add_arguments, medians, row, show

ANCHORS = [[k] if k < 10 else [k // 10, k % 10] for k in range(1, 100)]


def by_hand(layout, semantic, speaker, lengths, anchors):
    """Return the positions ``(B, P, H)`` of ``layout``, by a loop over clips and chunks."""
    import torch

    from espnet_mt_llm.nets.layouts import Interleave

    offsets = [0]
    for ids in ANCHORS:
        offsets.append(offsets[-1] + len(ids))
    clips = []
    for a, s, n in zip(semantic, speaker, lengths.tolist()):
        parts = []
        chunks = [slice(begin, min(begin + layout.chunk, n)) for begin in range(0, n, layout.chunk)]
        if isinstance(layout, Interleave):
            for chunk in chunks:
                parts += [layout.semantic_start[None], a[chunk], layout.speaker_start[None]]
                parts += [group.mean(0, keepdim=True) for group in s[chunk].split(layout.stride)] \
                    if layout.stride > 1 else [s[chunk]]
        else:
            for marker, stream in ((layout.semantic_start, a), (layout.speaker_start, s)):
                parts.append(marker[None])
                for k, chunk in enumerate(chunks):
                    parts += [stream[chunk], anchors[offsets[k]: offsets[k + 1]]]
        clips.append(torch.cat(parts))
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)


def median_ms(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median CPU milliseconds of each function, called in turn; the first calls are not counted."""
    return [1000 * seconds for seconds in medians(functions, repeats, time.process_time, warm_up=1)]


def layouts_of(size: int) -> dict:
    """Return the layouts that are timed, by name."""
    from espnet_mt_llm.nets.layouts import Interleave, TimeConcat

    return {"interleave 1:1": Interleave(size), "interleave 1:.25": Interleave(size, speaker_ratio=0.25),
            "time_concat": TimeConcat(size, ANCHORS)}


def sides(layout, lengths, size: int) -> list[Callable[[], list]]:
    """Return our and the peer's function: positions and the gradients of both streams."""
    import torch

    semantic, speaker = torch.randn(2, len(lengths), int(lengths.max()), size).requires_grad_()
    anchors = torch.randn(len(layout.anchor_ids), size) if len(layout.anchor_ids) else None
    gradient = torch.randn(len(lengths), layout.length(int(lengths.max())), size)

    def run(positions):
        return [positions, *torch.autograd.grad(positions, (semantic, speaker), gradient)]

    return [lambda: run(layout(semantic, speaker, lengths, anchors)[0]),
            lambda: run(by_hand(layout, semantic, speaker, lengths, anchors))]


def adapter(lengths, size: int) -> Callable[[], object]:
    """Return the forward of an MLP adapter on the same batch."""
    import torch

    from espnet_mt_llm.nets.projectors import MLPAdapter

    layer, frames = MLPAdapter(1024, size), torch.randn(len(lengths), int(lengths.max()), 1024)
    return lambda: layer(frames, lengths)


def step(layout, lengths, size: int, tokens: int) -> Callable[[], dict]:
    """Return a training step of a Qwen2 of 4 layers on the positions and ``tokens`` of target a clip.

    It gives the milliseconds of the whole ``step``, and of what makes its input, forward and backward: ``layout``, the
    positions of the audio with the embeddings of prompt and target around them.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from espnet_mt_llm.models.llm import LLM
    from espnet_mt_llm.models.speech_llm import AUDIO, Heard, SpeechLLM

    class Same(torch.nn.Module):
        """Stands for encoder and adapters, whose work is none of the layout's."""

        def forward(self, frames, *lengths):
            return frames if len(lengths) == 2 else (frames, *lengths)

    llm = LLM(Qwen2ForCausalLM(Qwen2Config(hidden_size=size, intermediate_size=4 * size, num_hidden_layers=4,
                                           num_attention_heads=4, num_key_value_heads=2, vocab_size=2000)), False)
    model = SpeechLLM(llm, Same(), Same(), layout, Same(), Same(), Same())
    optimizer = torch.optim.AdamW(model.parameters())
    semantic, speaker = torch.randn(2, len(lengths), int(lengths.max()), size)
    targets = torch.randint(0, 2000, (len(lengths), tokens))
    prompt = torch.cat([torch.full((len(lengths), 1), 7), torch.full((len(lengths), 1), AUDIO), targets], dim=1)

    def run() -> dict:
        a, s = semantic.clone().requires_grad_(), speaker.clone().requires_grad_()
        begin = time.process_time()
        made, _ = model.prepare(None, None, prompt, torch.full_like(lengths, prompt.size(1)),
                                heard=Heard(a, lengths, s, lengths))
        placed = time.process_time()
        inputs = made.detach().requires_grad_()
        hidden = llm.hidden(inputs)[:, -tokens - 1: -1]
        torch.nn.functional.cross_entropy(llm.logits(hidden).flatten(0, 1), targets.flatten()).backward()
        learnt = time.process_time()
        made.backward(inputs.grad)
        returned = time.process_time()
        optimizer.step()
        optimizer.zero_grad()
        end = time.process_time()
        return {"layout": 1000 * (placed - begin + returned - learnt), "step": 1000 * (end - begin)}

    return run


def main() -> None:
    """Check that both sides agree, time them and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=50)
    parser.add_argument("--frame_shift", type=float, default=0.06, help="seconds; SenseVoice's by default")
    parser.add_argument("--size", type=int, default=128, help="width of the LLM")
    parser.add_argument("--wide", type=int, default=896, help="width of the layouts and the adapter that are compared")
    parser.add_argument("--tokens", type=int, default=200, help="target tokens of a clip")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    frames = int(args.seconds / args.frame_shift)
    lengths = torch.cat([torch.tensor([frames]), torch.randint(frames // 2, frames, (args.batch - 1,))])
    rows = []
    for name, layout in layouts_of(args.wide).items():
        functions = sides(layout, lengths, args.wide)
        for mine, other in zip(*(function() for function in functions)):
            torch.testing.assert_close(mine, other)
        rows.append(row(f"{name}, width {args.wide}, forward and backward",
                        *median_ms(functions, args.repeats), "ms"))
    layout = layouts_of(args.wide)["interleave 1:1"]
    streams = torch.randn(2, args.batch, frames, args.wide)
    mine, other = median_ms([lambda: layout(*streams, lengths), adapter(lengths, args.wide)], args.repeats)
    rows.append(row(f"interleave 1:1 (ours) and an MLP adapter (peer), width {args.wide}, forward", mine, other, "ms"))
    for name, layout in layouts_of(args.size).items():
        if len(layout.anchor_ids):
            continue  # its anchors come from an LLM's embeddings
        run = step(layout, lengths, args.size, args.tokens)
        taken = [run() for _ in range(args.repeats + 1)][1:]
        whole = statistics.median(t["step"] for t in taken)
        rows.append(row(f"training step, {name}, Qwen2 of 4 layers and width {args.size}", whole, None, "ms"))
        share = statistics.median(t["layout"] / t["step"] for t in taken)
        rows.append(row(f"share of layout and packing, {name}", 100 * share, None, "%"))
    show(rows, args.json)


if __name__ == "__main__":
    main()
