"""Token lists and the tokenizer between transcripts and token ids: words, characters, or sentencepiece units."""

from collections import Counter
from pathlib import Path
from typing import Iterable, List, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open, nearest

TOKEN_TYPES = ("word", "char", "bpe")
BLANK, UNKNOWN, EDGE, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"


def check_token_type(token_type: str) -> str:
    """Return ``token_type``.

    Raises:
        UserError: it is not one of ``TOKEN_TYPES``.
    """
    if token_type not in TOKEN_TYPES:
        raise UserError(f"unknown token type '{token_type}'; {nearest(token_type, TOKEN_TYPES)}")
    return token_type


def split(text: str, token_type: str) -> List[str]:
    """Cut a normalised transcript into tokens of type ``word`` or ``char``.

    >>> split("go on", "char")
    ['g', 'o', '<space>', 'o', 'n']
    """
    if token_type == "word":
        return text.split()
    return [SPACE if c == " " else c for c in " ".join(text.split())]


def make_token_list(texts: Iterable[str], token_type: str, min_count: int = 1) -> List[str]:
    """List the tokens of ``texts``, most frequent first, between ``<blank> <unk>`` and ``<sos/eos>`` as ESPnet does."""
    counts = Counter(token for text in texts for token in split(text, token_type))
    kept = sorted((t for t, n in counts.items() if n >= min_count), key=lambda t: (-counts[t], t))
    return [BLANK, UNKNOWN, *kept, EDGE]


def train_bpe(texts: Sequence[str], size: int, model: Pathlike) -> List[str]:
    """Train a sentencepiece BPE model of about ``size`` units, write it to ``model``, and return the token list.

    Raises:
        UserError: sentencepiece finds no such model in the text (too little text for ``size``).
    """
    import io

    import sentencepiece

    trained = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=trained, vocab_size=size, model_type="bpe",
            character_coverage=1.0, bos_id=-1, eos_id=-1, unk_id=0, hard_vocab_limit=False, minloglevel=2,
        )
    except RuntimeError as e:
        repair = "raise --nbpe" if "required_chars" in str(e) else "lower --nbpe"
        raise UserError(f"sentencepiece cannot train {size} units on this text ({e}); {repair}") from None
    with atomic_open(model, "wb") as f:
        f.write(trained.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    return [BLANK, UNKNOWN, *(pieces.id_to_piece(i) for i in range(1, pieces.get_piece_size())), EDGE]


def read_token_list(path: Pathlike) -> List[str]:
    """Read one token a line.

    Raises:
        UserError: no such file, a token twice, or a first token that is not the blank.
    """
    try:
        tokens = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise at(path, None, "no such file", "make it with the stage 'tokens'") from None
    if not tokens or tokens[0] != BLANK:
        raise at(path, 1, f"the first token must be {BLANK}", "make the list anew with the stage 'tokens'")
    seen: dict = {}
    for number, token in enumerate(tokens, 1):
        if token in seen:
            raise at(path, number, f"the token '{token}' is already on line {seen[token]}", "keep one of them")
        seen[token] = number
    return tokens


def write_token_list(path: Pathlike, tokens: Sequence[str]) -> None:
    """Write one token a line, atomically."""
    with atomic_open(path) as f:
        f.writelines(f"{token}\n" for token in tokens)


class Tokenizer:
    """Transcript to token ids and back.

    Args:
        tokens: the token list.
        token_type: ``word``, ``char`` or ``bpe``.
        model: the sentencepiece model of ``bpe``.

    >>> t = Tokenizer(["<blank>", "<unk>", "go", "on", "<sos/eos>"], "word")
    >>> t.encode("go on then"), t.decode([2, 3])
    ([2, 3, 1], 'go on')
    """

    def __init__(self, tokens: Sequence[str], token_type: str, model: Pathlike | None = None) -> None:
        self.tokens = list(tokens)
        self.token_type = check_token_type(token_type)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self._unknown = self._ids.get(UNKNOWN, 1)
        self._pieces = None
        if token_type == "bpe":
            import sentencepiece

            if model is None or not Path(model).is_file():
                raise UserError(f"the sentencepiece model {model} does not exist; make it with the stage 'tokens'")
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def split(self, text: str) -> List[str]:
        """Cut ``text`` into tokens."""
        if self._pieces is not None:
            return self._pieces.encode(text, out_type=str)
        return split(text, self.token_type)

    def encode(self, text: str) -> List[int]:
        """Return the ids of the tokens of ``text``; a token outside the list becomes ``<unk>``."""
        return [self._ids.get(token, self._unknown) for token in self.split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the transcript of ``ids``; ``<blank>`` and ``<sos/eos>`` are dropped."""
        tokens = [self.tokens[i] for i in ids]
        tokens = [t for t in tokens if t not in (BLANK, EDGE)]
        if self.token_type == "word":
            return " ".join(tokens)
        if self.token_type == "char":
            return " ".join("".join(" " if t == SPACE else t for t in tokens).split())
        return " ".join("".join(tokens).replace("\u2581", " ").split())
