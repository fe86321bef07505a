"""Embed the single-speaker stretches of a dump dir: one job of JOB=1:N; who reads them joins the jobs."""

import argparse
from typing import Optional, Sequence

from espnet_mt_llm.common import UserError, command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Embed the stretches of one job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dump_dir", required=True, help="clips with the list enrolment (dump/<set>, stage enroll)")
    parser.add_argument("--speaker_encoder", default="campplus", help="campplus or eres2netv2")
    parser.add_argument("--checkpoint", required=True,
                        help="its weights: the released file, or a directory that the task speaker has trained")
    parser.add_argument("--rate", type=int, default=16000, help="sampling rate in Hz")
    parser.add_argument("--job", type=int, default=1)
    parser.add_argument("--num_jobs", type=int, default=1)
    parser.add_argument("--num_threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<n>")
    args = parser.parse_args(argv)
    if not 1 <= args.job <= args.num_jobs:
        raise UserError(f"--job {args.job} of --num_jobs {args.num_jobs}: jobs are numbered from 1")

    import torch

    from espnet_mt_llm.encoders.registry import speaker_encoder
    from espnet_mt_llm.inference.embeddings import extract, stretch_embeddings

    torch.set_num_threads(args.num_threads)
    encoder = speaker_encoder(args.speaker_encoder)(args.rate, args.checkpoint)
    if args.num_jobs == 1:
        found = stretch_embeddings(args.dump_dir, encoder, device=args.device)
    else:
        found = extract(args.dump_dir, encoder, device=args.device, job=args.job, num_jobs=args.num_jobs)
    print(f"{len(found)} embeddings of {encoder.embedding_size} numbers")


if __name__ == "__main__":
    main()
