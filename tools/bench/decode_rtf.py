#!/usr/bin/env python3
"""Decoding speed of sctc on one core: a batch of routed clips, against ESPnet's own encoder and CTC clip by clip.

The peer is an `espnet2` ASR model with the same E-Branchformer blocks (its own log-mel frontend and Conv2d subsampling)
and greedy CTC as its multi-speaker inference does it; it gives one transcript a clip, ours one a talker. Weights are
random: neither side's work depends on them. The unit is audio seconds decoded per second of one core.
"""

import argparse
from itertools import groupby

from report import add_arguments, interleaved, row, show


def ours_model():
    """Return the sctc model of the fsdd recipe's size."""
    from espnet_mt_llm.tasks.sctc import SCTCTask

    args = SCTCTask.get_parser().parse_args(["--output_dir", "none"])
    args.token_list = ["<blank>", "<unk>", *(f"w{i}" for i in range(60)), "<sos/eos>"]
    args.encoder_conf = {"output_size": 128, "num_blocks": 3, "mlp_size": 512, "kernel": 15}
    args.branch_conf = {"num_blocks": 1, "mlp_size": 512, "kernel": 15}
    args.separator_conf = {"hidden_size": 192, "num_layers": 1}
    return SCTCTask.build_model(args).eval()


class Peer:
    """ESPnet's frontend, normalisation, E-Branchformer of four blocks and CTC."""

    def __init__(self) -> None:
        from espnet2.asr.ctc import CTC
        from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
        from espnet2.asr.frontend.default import DefaultFrontend
        from espnet2.layers.utterance_mvn import UtteranceMVN

        self.frontend = DefaultFrontend(fs=16000, n_fft=512, hop_length=160).eval()
        self.normalize = UtteranceMVN()
        self.encoder = EBranchformerEncoder(80, 128, 4, cgmlp_linear_units=512, cgmlp_conv_kernel=15,
                                            merge_conv_kernel=15, num_blocks=4, input_layer="conv2d").eval()
        self.ctc = CTC(63, 128).eval()

    def __call__(self, speech, lengths) -> list[list[int]]:
        """Decode clip by clip, as `espnet2.bin.asr_inference` does."""
        texts = []
        for clip, n in zip(speech, lengths):
            features, sizes = self.normalize(*self.frontend(clip[None, :n], n[None]))
            hidden, _, _ = self.encoder(features, sizes)
            best = self.ctc.argmax(hidden)[0].tolist()
            texts.append([token for token, _ in groupby(best) if token])
        return texts


def main() -> None:
    """Time both on the same clips and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    lengths = torch.randint(2 * 16000, 7 * 16000, (args.clips,)).sort(descending=True).values
    speech = torch.randn(args.clips, int(lengths.max())) * 0.05
    audio = float(lengths.sum()) / 16000
    model, peer = ours_model(), Peer()
    counts = torch.arange(args.clips) % 3 + 1

    def batches(size: int):
        for i in range(0, args.clips, size):
            n = lengths[i : i + size]
            model.transcribe(speech[i : i + size, : int(n[0])], n, counts[i : i + size])

    rows = []
    with torch.no_grad():
        for size in (1, 16):
            mine, theirs = interleaved(lambda: batches(size), lambda: peer(speech, lengths), args.repeats)
            rows.append(row(f"decode, batch {size}", audio / mine, audio / theirs, "x real time"))
    show(rows, args.json)


if __name__ == "__main__":
    main()
