"""Estimate what the training of a speech LLM takes, from its configuration: weights, memory and operations of a clip.

Example: python -m espnet_mt_llm.bin.estimate_memory conf/dual/04_speech_llm_real.yaml --seconds 50
"""

import argparse
from typing import Optional, Sequence

from espnet_mt_llm.common import command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration of a training step of the task speech_llm")
    parser.add_argument("--seconds", type=float, default=50.0, help="length of the clip")
    parser.add_argument("--targets", type=int, default=300, help="tokens of its target")
    parser.add_argument("--prompt", type=int, default=40, help="tokens of its prompt")
    parser.add_argument("--tokenizer", default=None,
                        help="directory, for a language model that begins from a configuration, e.g. "
                             "data/llm_tokenizer/word")
    parser.add_argument("--cpu", action="store_true", help="masks and attention as on a CPU")
    args = parser.parse_args(argv)

    from espnet_mt_llm.tasks.estimate import estimate

    for line in estimate(args.config, args.seconds, args.targets, args.prompt, not args.cpu,
                         args.tokenizer).lines():
        print(line)


if __name__ == "__main__":
    main()
