"""Measure which speaker labels a speech LLM gets right where all that stands before them is true, and its voices.

Any step of a training can be measured, those without audio included. Example:
python -m espnet_mt_llm.bin.measure_labels --model_dir exp/speakerlm/09_speech_llm_llm --data_dir dump/test_conv
--registration over --num_distractors 10
"""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from espnet_mt_llm.common import UserError, command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Print one line for each of the registrations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="output directory of the training")
    parser.add_argument("--data_dir", required=True, help="clips (dump/<set>)")
    parser.add_argument("--registration", nargs="+", default=["none"], choices=("none", "match", "over"))
    parser.add_argument("--num_distractors", type=int, default=10, help="others who are registered with over")
    parser.add_argument("--num_clips", type=int, default=0, help="the first ones of the set; 0: all")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--weights", default="", help="file of the weights; the best there are by default")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    for name, least in (("batch_size", 1), ("num_threads", 1), ("num_distractors", 1), ("num_clips", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: a whole number of at least {least} is expected")

    import torch

    from espnet_mt_llm.datadir.maps import read_map
    from espnet_mt_llm.inference.decode import check_device
    from espnet_mt_llm.inference.labels import LabelProbe

    check_device(args.device, "measure_labels")
    torch.set_num_threads(args.num_threads)
    supervision = read_map(Path(args.data_dir) / "supervision")
    if args.num_clips:
        supervision = dict(list(supervision.items())[: args.num_clips])
    probe = LabelProbe(args.model_dir, args.data_dir, weights=args.weights, device=args.device)
    for registration in args.registration:
        probe.register(registration, args.num_distractors)
        others = f", up to {args.num_distractors} others" if registration == "over" else ""
        print(f"registration {registration}{others}: {probe(supervision, args.batch_size).line()}", flush=True)


if __name__ == "__main__":
    main()
