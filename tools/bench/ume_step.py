#!/usr/bin/env python3
"""A joint training step of UME against three single-task steps with an encoder each; and the memory of its parts.

Peer of the time: diarization, separation and recognition trained as three models of the same sizes, one step each on
the same batch; forward, backward and optimizer. `--size small` is the recipe fsdd, `--size paper` has the encoder of
OWSM v3.1 Medium (18 blocks, 1024 wide) and the heads of the recipe librimix, with random weights.

`--memory` counts what forward keeps for backward, each tensor once and without the weights, for one clip of 30 s with
three talkers. The parts run one after the other: the encoder with one block and with two, and what a block adds is
multiplied up; separation, whose memory is proportional to the length, with a tenth of the clip; recognition with two
small vocabularies, in whose size its memory is linear.
"""

import argparse
import logging
import time
from typing import Any, Callable

from report import add_arguments, interleaved, row, show

OWSM = {
    "frontend": "default", "specaug": None, "normalize": None, "preencoder": None, "encoder": "e_branchformer",
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "fs": "16k"},
    "encoder_conf": {"output_size": 1024, "attention_heads": 16, "attention_layer_type": "selfattn",
                     "pos_enc_layer_type": "abs_pos", "rel_pos_type": "latest", "cgmlp_linear_units": 4096,
                     "cgmlp_conv_kernel": 31, "use_linear_after_conv": False, "gate_activation": "identity",
                     "num_blocks": 18, "dropout_rate": 0.1, "positional_dropout_rate": 0.1,
                     "attention_dropout_rate": 0.1,
                     "input_layer": "conv2d", "layer_drop_rate": 0.0, "linear_units": 4096,
                     "positionwise_layer_type": "linear", "use_ffn": True, "macaron_ffn": True,
                     "merge_conv_kernel": 31},
}
SMALL = {
    "encoder": {"output_size": 128, "num_blocks": 4, "mlp_size": 512, "dropout": 0.0, "frontend_conf": {"stack": 4}},
    "recognition": {"ctc_weight": 1.0, "blocks": {"num_blocks": 1, "mlp_size": 512, "kernel": 15, "dropout": 0.0}},
    "separation": {"filters": 256, "kernel": 64, "stride": 32, "bottleneck": 64, "hidden": 128, "layers": 6,
                   "stacks": 2, "projection": 32},
}
PAPER = {
    "recognition": {"ctc_weight": 0.3,
                    "blocks": {"num_blocks": 2, "attention_heads": 16, "mlp_size": 4096, "kernel": 31},
                    "decoder": {"num_blocks": 6, "attention_heads": 16, "linear_units": 4096}},
    "separation": {},
}
TASKS = ("diarization", "separation", "recognition")
GIB = 2 ** 30


def encoder(size: str, blocks: int = 18) -> Any:
    """Return the shared encoder with random weights."""
    from espnet_mt_llm.encoders.e_branchformer import EBranchformer
    from espnet_mt_llm.encoders.owsm import Owsm

    if size == "small":
        return EBranchformer(**SMALL["encoder"])
    return Owsm(config={**OWSM, "encoder_conf": {**OWSM["encoder_conf"], "num_blocks": blocks}})


def head(task: str, width: int, size: str, speakers: int, vocabulary: int, **changes: Any) -> Any:
    """Return the head of a task."""
    from espnet_mt_llm.nets.diarization import DiarizationHead
    from espnet_mt_llm.nets.recognition import RecognitionHead
    from espnet_mt_llm.nets.separation import ConvTasNet

    conf = {**(SMALL if size == "small" else PAPER).get(task, {}), **changes}
    if task == "diarization":
        return DiarizationHead(width, speakers)
    if task == "separation":
        return ConvTasNet(width, speakers, **conf)
    return RecognitionHead(width, speakers, vocabulary, **conf)


def model(tasks: tuple[str, ...], size: str, speakers: int, vocabulary: int) -> Any:
    """Return a model of ``tasks``."""
    from espnet_mt_llm.models.ume import UMEModel
    from espnet_mt_llm.nets.rwse import ResidualWeightedSum

    shared = encoder(size)
    heads = {task: head(task, shared.output_size, size, speakers, vocabulary) for task in tasks}
    tokens = ["<blank>", *(f"t{i}" for i in range(vocabulary - 2)), "<sos/eos>"]
    return UMEModel(shared, ResidualWeightedSum(shared.num_layers, tasks), heads, tokens, speakers)


def batch(clips: int, seconds: float, speakers: int, vocabulary: int, frame_shift: float) -> dict[str, Any]:
    """Return random clips with random targets, 2 tokens a second and talker."""
    import torch

    samples, words = int(seconds * 16000), int(2 * seconds)
    sources = torch.randn(clips, samples, speakers) * 0.1
    return {
        "speech": sources.sum(-1), "speech_lengths": torch.full((clips,), samples), "sources": sources,
        "text": torch.randint(1, vocabulary - 1, (clips, speakers * words)),
        "text_lengths": torch.full((clips,), speakers * words), "talkers": torch.full((clips, speakers), words),
        "activity": (torch.rand(clips, int(seconds / frame_shift) + 2, speakers) > 0.5).float(),
    }


def stepper(network: Any, data: dict[str, Any]) -> Callable[[], None]:
    """Return a function that takes one training step."""
    import torch

    # Without momentum: at the paper's size the state of Adam alone would fill a small machine.
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        network(**data)[0].backward()
        optimizer.step()

    return step


def kept(run: Callable[[], Any], modules: tuple[Any, ...]) -> int:
    """Return the bytes that ``run`` keeps for backward; ``modules`` are those whose weights do not count."""
    import torch

    weights = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(found.values())


def memory(seconds: float, speakers: int, vocabulary: int) -> list[dict]:
    """Return rows of what the parts of a step at the paper's size keep, one clip."""
    import torch

    data = batch(1, seconds, speakers, vocabulary, 0.04)
    speech, lengths = data["speech"], data["speech_lengths"]
    sizes = []
    for blocks in (1, 2):
        part = encoder("paper", blocks)
        sizes.append(kept(lambda: part(speech, lengths), (part,)))
    frames = part(speech, lengths)[1]
    hidden = torch.randn(1, int(frames), part.output_size, requires_grad=True)
    rows = [row("encoder, 18 blocks", (sizes[0] + 17 * (sizes[1] - sizes[0])) / GIB, None, "GiB")]
    for name, changes in (("separation", {}), ("separation, recompute", {"recompute": True})):
        part = head("separation", hidden.size(-1), "paper", speakers, vocabulary, **changes)
        tenth = kept(lambda: part(speech[:, : speech.size(1) // 10], hidden[:, : hidden.size(1) // 10], lengths // 10),
                     (part,))
        rows.append(row(name, 10 * tenth / GIB, None, "GiB"))
    sizes = [recognition(hidden, frames, speakers, tokens) for tokens in (1000, 2000)]
    whole = sizes[0] + (vocabulary - 1000) * (sizes[1] - sizes[0]) / 1000
    rows.append(row(f"recognition, {vocabulary:,} tokens", whole / GIB, None, "GiB"))
    rows.append(row("  log probabilities of CTC alone", 4 * speakers * int(frames) * vocabulary / GIB, None, "GiB"))
    return rows


def recognition(hidden: Any, frames: Any, speakers: int, vocabulary: int) -> int:
    """Return the bytes that the recognition head and its loss keep."""
    from espnet_mt_llm.models.base import split_talkers

    part = head("recognition", hidden.size(-1), "paper", speakers, vocabulary)
    data = batch(1, 30.0, speakers, vocabulary, 0.04)
    targets, counts = split_talkers(data["text"], data["talkers"])

    def recognise() -> Any:
        streams, log_probs = part(hidden, frames)
        return part.loss(streams, log_probs, frames, targets, counts, counts > 0, None)

    return kept(recognise, (part,))


def main() -> None:
    """Measure and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--size", choices=["small", "paper"], default="small")
    parser.add_argument("--memory", action="store_true", help="the memory of the parts instead of times")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--speakers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    import torch

    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    if args.memory:
        show(memory(30.0, 3, 50002), args.json)
        return
    shift = 0.04
    data = batch(args.clips, args.seconds, args.speakers, args.vocabulary, shift)
    joint = stepper(model(TASKS, args.size, args.speakers, args.vocabulary), data)
    joint()
    if args.size == "small":
        singles = [stepper(model((task,), args.size, args.speakers, args.vocabulary), data) for task in TASKS]
        for step in singles:
            step()
        ours, peer = interleaved(joint, lambda: [step() for step in singles], args.repeats)
    else:  # one model of 0.6 to 0.9 billion weights in memory at a time
        ours = timed(joint, args.repeats)
        del joint
        peer = 0.0
        for task in TASKS:
            step = stepper(model((task,), args.size, args.speakers, args.vocabulary), data)
            step()
            peer += timed(step, args.repeats)
            del step
    show([row(f"joint step, {args.size}", ours, peer, "s")], args.json)
    print(f"the joint step costs {100 * ours / peer:.0f} % of the three")


def timed(step: Callable[[], None], repeats: int) -> float:
    """Return the least seconds of a step."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return min(times)


if __name__ == "__main__":
    main()
