"""Decode a directory of clips with a speech LLM: one job of JOB=1:N; merge_decode joins the jobs."""

import argparse
from typing import Optional, Sequence

from espnet_mt_llm.common import UserError, command


def number_or_random(text: str) -> object:
    """Parse ``--num_distractors``."""
    return text if text == "random" else int(text)


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Decode the clips of one job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", required=True, help="output directory of the training")
    parser.add_argument("--data_dir", required=True, help="clips (dump/<set>)")
    parser.add_argument("--out_dir", required=True, help="decode directory")
    parser.add_argument("--config", default=None, help="YAML: see espnet_mt_llm/inference/speech_llm.py")
    parser.add_argument("--job", type=int, default=1)
    parser.add_argument("--num_jobs", type=int, default=1)
    group = parser.add_argument_group("instead of the value in the YAML")
    for name, kind in (("batch_size", int), ("batch_positions", int), ("num_threads", int), ("weights", str),
                       ("device", str), ("dtype", str), ("registration", str), ("num_distractors", number_or_random),
                       ("beam_size", int), ("no_repeat_ngram", str), ("no_repeat_ngram_size", int),
                       ("tokens_per_second", float), ("max_new_tokens", int), ("labels", str), ("seed", int)):
        group.add_argument(f"--{name}", type=kind)
    args = vars(parser.parse_args(argv))
    model_dir, data_dir, out_dir, config_path = (args.pop(k) for k in ("model_dir", "data_dir", "out_dir", "config"))
    job, num_jobs = args.pop("job"), args.pop("num_jobs")
    if not 1 <= job <= num_jobs:
        raise UserError(f"--job {job} of --num_jobs {num_jobs}: jobs are numbered from 1")

    from espnet_mt_llm.inference.merge import write_part
    from espnet_mt_llm.inference.speech_llm import SpeechLLMConfig, decode

    config = SpeechLLMConfig.load(config_path, **args)
    segments, counts, record, overregistered = decode(model_dir, data_dir, config, job, num_jobs)
    write_part(out_dir, job, num_jobs, segments, counts, record, overregistered=overregistered)
    print(f"{len(counts)} clips, {record['audio_seconds']:.1f} s of audio in {record['wall_seconds']:.2f} s; "
          f"unparsable: {len(record['unparsable'])}, repeated: {record['repeated']}, capped: {record['capped']}")


if __name__ == "__main__":
    main()
