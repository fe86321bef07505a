"""Decode a directory of clips with an sctc model: one job of JOB=1:N; merge_decode joins the jobs."""

import argparse
from typing import Optional, Sequence

from espnet_mt_llm.common import UserError, command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Decode the clips of one job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", required=True, help="output directory of the training")
    parser.add_argument("--data_dir", required=True, help="clips (dump/<set>)")
    parser.add_argument("--out_dir", required=True, help="decode directory")
    parser.add_argument("--config", default=None, help="YAML: count, batch_size, weights, num_threads, device")
    parser.add_argument("--job", type=int, default=1)
    parser.add_argument("--num_jobs", type=int, default=1)
    group = parser.add_argument_group("instead of the value in the YAML")
    group.add_argument("--count", choices=["head", "oracle", "forced"])
    group.add_argument("--num_talkers", type=int)
    group.add_argument("--batch_size", type=int)
    group.add_argument("--num_threads", type=int)
    group.add_argument("--weights")
    group.add_argument("--device")
    args = parser.parse_args(argv)
    if not 1 <= args.job <= args.num_jobs:
        raise UserError(f"--job {args.job} of --num_jobs {args.num_jobs}: jobs are numbered from 1")

    from espnet_mt_llm.inference.decode import DecodeConfig, decode
    from espnet_mt_llm.inference.merge import write_part

    names = ("count", "num_talkers", "batch_size", "num_threads", "weights", "device")
    changes = {name: getattr(args, name) for name in names}
    config = DecodeConfig.load(args.config, **changes)
    segments, counts, record = decode(args.model_dir, args.data_dir, config, args.job, args.num_jobs)
    write_part(args.out_dir, args.job, args.num_jobs, segments, counts, record)
    print(f"{len(counts)} clips, {record['audio_seconds']:.1f} s of audio in {record['wall_seconds']:.2f} s")


if __name__ == "__main__":
    main()
