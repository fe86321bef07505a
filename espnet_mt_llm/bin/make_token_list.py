"""Make the token list (and sentencepiece model) of the training transcripts."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from espnet_mt_llm.common import UserError, command
from espnet_mt_llm.text.normalise import normalise
from espnet_mt_llm.text.serialisation import read_supervision
from espnet_mt_llm.text.token_list import TOKEN_TYPES, make_token_list, train_bpe, write_token_list


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Read `supervision`, write the token list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--supervision", required=True, help="supervision of the training clips")
    parser.add_argument("--out", required=True, help="token list; with bpe, the model goes beside it as bpe.model")
    parser.add_argument("--token_type", default="word", choices=TOKEN_TYPES)
    parser.add_argument("--profile", default="none", help="text normalisation profile")
    parser.add_argument("--nbpe", type=int, default=500, help="number of sentencepiece units")
    parser.add_argument("--min_count", type=int, default=1, help="rarer words or characters become <unk>")
    args = parser.parse_args(argv)

    texts = {normalise(s["words"], args.profile) for segments in read_supervision(args.supervision).values()
             for s in segments}
    texts = sorted(texts - {""})
    if not texts:
        raise UserError(f"{args.supervision}: no transcript is left after normalisation with '{args.profile}'; "
                        "choose another --profile")
    if args.token_type == "bpe":
        tokens = train_bpe(texts, args.nbpe, Path(args.out).parent / "bpe.model")
    else:
        tokens = make_token_list(texts, args.token_type, args.min_count)
    write_token_list(args.out, tokens)
    print(f"{args.out}: {len(tokens)} tokens")


if __name__ == "__main__":
    main()
