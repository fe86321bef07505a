#!/usr/bin/env python3
"""Permutation-invariant training, forward and backward, against ESPnet's own solvers on the same tensors.

Binary cross entropy: ours is the pairwise costs and an optimal assignment; the peer is `pit_loss` of
`espnet2.diar.espnet_model`, which tries all permutations. CTC: ours is the search without gradient and the loss of the
chosen pairs; the peer is `PITLossWrapper` of `espnet2.asr.pit_espnet_model`, once its own loss forward and backward,
and once as the model's `forward` uses it: for the order alone, then CTC in that order forward and backward. All CTC
sides start at the encoder output, so that the linear layer is inside. Results are compared before they are timed.
"""

import argparse
import statistics
import time

from report import add_arguments, row, show


def bce_sides(batch: int, frames: int, speakers: int):
    """Return our and the peer's function; both give the loss and the gradient of the logits."""
    import torch
    from espnet2.diar.espnet_model import ESPnetDiarizationModel

    from espnet_mt_llm.nets.permutation import pairwise_bce, pit

    class Peer(ESPnetDiarizationModel):
        """The loss functions alone, without the model around them."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.place = torch.nn.Parameter(torch.zeros(1))  # pit_loss asks a parameter for its device

    # The peer scales the sum over all frames of the batch; clips of one length make that the mean over the clips.
    logits, targets = torch.randn(batch, frames, speakers), (torch.rand(batch, frames, speakers) > 0.5).float()
    lengths, peer = torch.full((batch,), frames), Peer()

    def ours():
        x = logits.clone().requires_grad_()
        loss = pit(pairwise_bce(x, targets, lengths))[0].mean()
        loss.backward()
        return loss.detach(), x.grad

    def theirs():
        x = logits.clone().requires_grad_()
        loss = peer.pit_loss(x, targets, lengths)[0]
        loss.backward()
        return loss.detach(), x.grad

    return ours, theirs


def ctc_sides(batch: int, frames: int, vocabulary: int, tokens: int, talkers: int, size: int = 256):
    """Return our, the solver's and the model's function; all give the loss and the gradient of the encoder output."""
    import torch
    from espnet2.asr.ctc import CTC
    from espnet2.asr.pit_espnet_model import PITLossWrapper

    from espnet_mt_llm.nets.permutation import ctc_pit

    ctc = CTC(vocabulary, size, reduce=False)
    hidden = torch.randn(batch, talkers, frames, size)
    lengths = torch.full((batch,), frames)
    targets = torch.randint(1, vocabulary, (batch, talkers, tokens))
    sizes = torch.randint(tokens // 2, tokens + 1, (batch, talkers))
    solver = PITLossWrapper(ctc, talkers)

    def ours():
        x = hidden.clone().requires_grad_()
        log_probs = ctc.ctc_lo(x).log_softmax(-1)
        loss = ctc_pit(log_probs, lengths, targets, sizes, normalise=False)[0].mean()
        loss.backward()
        return loss.detach(), x.grad

    every = lengths[:, None].expand(-1, talkers)

    def solver_alone():
        x = hidden.clone().requires_grad_()
        # The CTC module divides by the size of the batch, and the wrapper takes the mean over it once more.
        loss = solver(x, every, targets, sizes)[0] * batch
        loss.backward()
        return loss.detach(), x.grad

    def model():
        x = hidden.clone().requires_grad_()
        _, order = solver(x, every, targets, sizes)
        chosen, _ = PITLossWrapper.permutate(order, x, every)
        loss = ctc(chosen.flatten(0, 1), every.flatten(), targets.flatten(0, 1), sizes.flatten()).sum()
        loss.backward()
        return loss.detach(), x.grad

    return ours, solver_alone, model


def in_turn(sides, repeats: int, calls: int = 3) -> list[float]:
    """Return the median milliseconds of each side.

    The first call of each turn is not counted: the peer leaves a graph of hundreds of losses behind, and whoever comes
    next pays for the memory.
    """
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for function, taken in zip(sides, times):
            function()
            for _ in range(calls):
                begin = time.perf_counter()
                function()
                taken.append(1000 * (time.perf_counter() - begin))
    return [statistics.median(taken) for taken in times]


def main() -> None:
    """Check that all sides agree, time them and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--bce", type=int, nargs=2, default=[16, 1000], metavar=("B", "T"))
    parser.add_argument("--bce_speakers", type=int, nargs="*", default=[2, 3, 4, 5, 6])
    parser.add_argument("--ctc", type=int, nargs=4, default=[8, 250, 500, 20], metavar=("B", "T", "V", "L"))
    parser.add_argument("--ctc_speakers", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for what, sides, shape, speakers in (("BCE", bce_sides, args.bce, args.bce_speakers),
                                         ("CTC", ctc_sides, args.ctc, args.ctc_speakers)):
        for n in speakers:
            ours, *peers = functions = sides(*shape, n)
            for peer in peers:
                for mine, their in zip(ours(), peer()):
                    torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-5)
            mine, *their = in_turn(functions, args.repeats)
            for how, taken in zip(("", ", as in the model's step"), their):
                rows.append(row(f"PIT {what}, {n} talkers{how}", mine, taken, "ms"))
    show(rows, args.json)


if __name__ == "__main__":
    main()
