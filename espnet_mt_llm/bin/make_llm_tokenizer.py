"""Make the tokenizer of a small LLM from the training transcripts."""

import argparse
from typing import Optional, Sequence

from espnet_mt_llm.common import UserError, command
from espnet_mt_llm.text.llm_tokenizer import KINDS, train_tokenizer
from espnet_mt_llm.text.normalise import normalise_all
from espnet_mt_llm.text.serialisation import read_supervision


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Read `supervision`, write tokenizer.json and tokenizer_config.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--supervision", required=True, nargs="+", help="supervision of the training clips")
    parser.add_argument("--out", required=True, help="directory of the tokenizer")
    parser.add_argument("--kind", choices=KINDS, default="word", help="what a token is; unseen words are spelled")
    parser.add_argument("--vocab_size", type=int, default=0, help="largest size; 0: all words or characters, 1000 bpe")
    parser.add_argument("--profile", default="none", help="text normalisation profile")
    parser.add_argument("--special_tokens", nargs="*", default=[], help="more tokens that are never cut")
    args = parser.parse_args(argv)

    texts = [s["words"] for path in args.supervision for segments in read_supervision(path).values() for s in segments]
    texts = [t for t in normalise_all(texts, args.profile) if t]
    if not texts:
        raise UserError(f"{args.supervision[0]}: no transcript is left after normalisation with '{args.profile}'; "
                        "choose another --profile")
    size = train_tokenizer(texts, args.out, args.kind, args.vocab_size, args.special_tokens)
    print(f"{args.out}: {size} tokens")


if __name__ == "__main__":
    main()
