#!/usr/bin/env python3
"""Decoding speed of a speech LLM: batches that clips leave when they are through, against clip by clip.

The peer is `generate` of transformers on one clip after the other, as inference scripts of speech LLMs do it. The
language model is the same Qwen2 with random weights; one token in so many ends an answer, so that lengths vary. Inputs
are embeddings of prompt and audio as a projector gives them: the encoder's work is the same on both sides and is left
out. Answers are compared first. The unit is audio seconds decoded per second of one core.
"""

import argparse
import time
from functools import partial

from report import add_arguments, medians, row, show

END, PAD = 1, 0


def language_model(layers: int, size: int, vocabulary: int):
    """Return a Qwen2 whose random weights are large enough that answers differ."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from espnet_mt_llm.models.llm import LLM

    config = Qwen2Config(hidden_size=size, intermediate_size=4 * size, num_hidden_layers=layers, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=vocabulary, initializer_range=0.15)
    return LLM(Qwen2ForCausalLM(config).eval(), False)


class Decoding:
    """Clips of a test set: their embeddings, and both ways to answer them.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        self.llm = language_model(4, args.size, args.vocabulary)
        self.ends = {END, *range(2, 2 + args.vocabulary // args.mean_tokens)}
        seconds = torch.empty(args.clips).uniform_(0.4 * args.seconds, args.seconds).sort(descending=True).values
        self.audio = float(seconds.sum())
        # 80 ms a position, and a prompt.
        self.embeds = [torch.randn(15 + int(s / 0.08), args.size) for s in seconds]
        self.caps = [32 + int(5 * s) for s in seconds]

    def ours(self, beam: int, batch: int) -> list[list[int]]:
        """Decode in batches of clips of like length."""
        import torch

        from espnet_mt_llm.inference.generate import Generator

        # The peer ends no loop.
        generator = Generator(self.llm, self.ends, PAD, beam, "never", loop_times=10**6)
        found = []
        for i in range(0, len(self.embeds), batch):
            clips = self.embeds[i : i + batch]
            width = max(map(len, clips))
            embeds = torch.stack([torch.nn.functional.pad(c, (0, 0, width - len(c), 0)) for c in clips])
            mask = torch.stack([(torch.arange(width) >= width - len(c)).long() for c in clips])
            found += [answer.ids for answer in generator(embeds, mask, self.caps[i : i + batch])]
        return found

    def peer(self, beam: int) -> list[list[int]]:
        """Decode clip by clip."""
        import torch

        found = []
        for clip, cap in zip(self.embeds, self.caps):
            ids = self.llm.model.generate(
                inputs_embeds=clip[None], attention_mask=torch.ones(1, len(clip), dtype=torch.long), do_sample=False,
                num_beams=beam, max_new_tokens=cap, eos_token_id=sorted({*self.ends, PAD}), pad_token_id=PAD)
            ids = ids[0].tolist()
            end = next((i for i, token in enumerate(ids) if token in self.ends or token == PAD), len(ids))
            found.append(ids[:end])
        return found


def main() -> None:
    """Check that both sides agree, time them and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30, help="the longest clip")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 32], help="clips of a batch of greedy search")
    parser.add_argument("--size", type=int, default=128, help="width of the language model")
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--mean_tokens", type=int, default=100, help="one token in so many ends an answer")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    decoding = Decoding(args)
    rows = []
    for what, beam, batches in (("greedy", 1, args.batches), (f"beam {args.beam}", args.beam, args.batches[:1])):
        expected = decoding.peer(beam)
        sizes = sorted(map(len, expected))
        print(f"{what}: answers of {sizes[0]} to {sizes[-1]} tokens, median {sizes[len(sizes) // 2]}")
        for batch in batches:
            if decoding.ours(beam, batch) != expected:
                raise SystemExit(f"{what}, batch {batch}: the answers of both sides differ")
        *mine, theirs = medians((*(partial(decoding.ours, beam, batch) for batch in batches),
                                 partial(decoding.peer, beam)), args.repeats, time.process_time)
        rows += [row(f"{what}, batch {batch}", decoding.audio / seconds, decoding.audio / theirs, "x real time")
                 for batch, seconds in zip(batches, mine)]
    show(rows, args.json)


if __name__ == "__main__":
    main()
