"""The tokenizer of an LLM: a Hugging Face directory, loaded, or trained for a small LLM of one's own."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, List, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at, atomic_open, nearest
from espnet_mt_llm.text.parsing import CHANGE_TEXT
from espnet_mt_llm.text.prompts import PROMPTS

KINDS = ("word", "char", "bpe")
START_OF_TURN, END_OF_TURN, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN, CHANGE_TEXT, "<start>", "<end>")
_SPACE = "\u2581"
_CJK = "[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
# A word costs less than two characters, and a character less than two bytes of UTF-8.
_WORD, _CHARACTER, _BYTE = -1.0, -10.0, -100.0


class LLMTokenizer:
    """Text to token ids and back; nothing is added at the ends, and special tokens in the text are found.

    Args:
        tokenizer: the tokenizer of transformers.
        where: its directory, for messages.

    Attributes:
        end_id: what ends an answer: ``<|im_end|>``, else the end-of-sequence token.
        pad_id: fills up batches.
    """

    def __init__(self, tokenizer: Any, where: Pathlike = "tokenizer") -> None:
        self.tokenizer = tokenizer
        self.where = str(where)
        ends = [tokenizer.convert_tokens_to_ids(t) for t in (END_OF_TURN, tokenizer.eos_token) if t in self.special()]
        if not ends:
            raise at(where, None, f"neither {END_OF_TURN} nor an end-of-sequence token", "use a tokenizer that has one")
        self.end_id: int = ends[0]
        self.pad_id: int = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._ends = set(ends) | {self.pad_id}

    def __len__(self) -> int:
        return len(self.tokenizer)

    def special(self) -> set:
        """Return the tokens that are never cut."""
        return set(self.tokenizer.get_added_vocab())

    def encode(self, text: str) -> List[int]:
        """Return the token ids of ``text``."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``, without the tokens that end or fill up."""
        kept = [int(i) for i in ids if int(i) not in self._ends]
        return self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def id_of(self, token: str) -> int:
        """Return the id of one token.

        Raises:
            UserError: ``token`` is not one token.
        """
        ids = self.encode(token)
        if len(ids) != 1:
            raise at(self.where, None, f"{token!r} is {len(ids)} tokens", "add it to the new tokens")
        return ids[0]

    def add_tokens(self, tokens: Sequence[str]) -> int:
        """Add special tokens that are not there yet; return how many that were. Their ids follow the last one."""
        from tokenizers import AddedToken

        return self.tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens
                                          if t not in self.special()])


def load_tokenizer(path: Pathlike) -> LLMTokenizer:
    """Load the tokenizer of a local Hugging Face directory.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = Path(path)
    if not (path / "tokenizer_config.json").is_file():
        raise at(path, None, "no tokenizer: tokenizer_config.json is not there",
                 "make one with python -m espnet_mt_llm.bin.make_llm_tokenizer, or put the files of the model there "
                 "(huggingface.co, for example Qwen/Qwen2.5-0.5B-Instruct)")
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as e:
        raise at(path, None, f"the tokenizer cannot be read ({(str(e) or type(e).__name__).splitlines()[0]})",
                 "put the files of the model there again") from None
    tokenizer = LLMTokenizer(found, path)
    # Without its vocabulary a tokenizer is made all the same, of special tokens alone.
    if not tokenizer.encode("0"):
        raise at(path, None, "the tokenizer has no vocabulary: tokenizer.json is not there or empty",
                 "put the files of the model there again")
    return tokenizer


def train_tokenizer(texts: Sequence[str], out_dir: Pathlike, kind: str = "word", vocab_size: int = 0,
                    special_tokens: Sequence[str] = ()) -> int:
    """Make a tokenizer from transcripts and write it as a Hugging Face directory; return its size.

    ``word`` and ``char`` hold the words or the characters of the transcripts and of the prompts as tokens, most
    frequent first, and besides every single character and byte, so that an unseen word or name is spelled. ``bpe`` is
    byte-level, as that of Qwen. A word has the space before it in it; the text comes back as it was.

    Args:
        vocab_size: the largest size; with 0 all words or characters, and 1000 for ``bpe``.
        special_tokens: beside :data:`SPECIAL_TOKENS`.

    Raises:
        UserError: an unknown kind, no text, or a size too small for characters, bytes and special tokens.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of tokenizer '{kind}'; {nearest(str(kind), KINDS)}")
    texts = [t for t in (" ".join(text.replace(_SPACE, " ").split()) for text in texts) if t]
    if not texts:
        raise UserError("no text to make a tokenizer from; check the transcripts and their normalisation")
    special = list(dict.fromkeys([*SPECIAL_TOKENS, *special_tokens]))
    if kind == "bpe":
        tokenizer = _byte_bpe(texts, vocab_size or 1000, special)
    else:
        tokenizer = _spelling(texts, kind, vocab_size, special)
    _write(tokenizer, Path(out_dir))
    return tokenizer.get_vocab_size()


def _prompt_words() -> List[str]:
    """Return the words of the prompts and labels."""
    texts = [t for style in PROMPTS.values() for t in style.values()]
    for mark in ("{audio}", "{registered}", *SPECIAL_TOKENS):
        texts = [t.replace(mark, " ") for t in texts]
    return list(dict.fromkeys([w for t in texts for w in t.split()] + ["spk"]))


def _spelling(texts: Sequence[str], kind: str, vocab_size: int, special: Sequence[str]) -> Any:
    """Make a Unigram model whose cheapest reading takes a known word whole, and spells any other."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    prompts = _prompt_words()
    characters = Counter(c for text in texts for c in text if c != " ")
    words = Counter(f"{_SPACE}{w}" for text in texts for w in text.split()) if kind == "word" else Counter()
    # Printable ASCII, so that a name of a speaker is spelled in letters.
    always = sorted({*characters, *map(chr, range(33, 127)), "\n", _SPACE})
    known = dict.fromkeys([*(f"{_SPACE}{w}" for w in prompts), *(w for w in prompts if len(w) > 1)])
    vocabulary = [*special, *(f"<0x{b:02X}>" for b in range(256)), *always, *known]
    most = [w for w, _ in sorted(words.items(), key=lambda item: (-item[1], item[0])) if w not in known]
    room = vocab_size - len(vocabulary) if vocab_size else len(most)
    if room < 0:
        raise UserError(f"vocab_size: {vocab_size} has no room for special tokens, bytes, {len(always)} characters and "
                        f"the words of the prompts; use {len(vocabulary)} or more")
    vocabulary += most[:room]
    costs = {**dict.fromkeys(always, _CHARACTER), **{f"<0x{b:02X}>": _BYTE for b in range(256)}}
    model = models.Unigram([(t, costs.get(t, _WORD)) for t in vocabulary], 0, True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never"), pre_tokenizers.Split(Regex(_CJK), "isolated")])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Replace(_SPACE, " ")])
    _add_special(tokenizer, special)
    return tokenizer


def _byte_bpe(texts: Sequence[str], vocab_size: int, special: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    least = 256 + len(special)
    if vocab_size < least:
        raise UserError(f"vocab_size: {vocab_size} has no room for bytes and special tokens; use {least} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(special), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator([f" {t}" for t in texts] + [" " + " ".join(_prompt_words())] * 2, trainer)
    _add_special(tokenizer, special)
    return tokenizer


def _add_special(tokenizer: Any, special: Sequence[str]) -> None:
    from tokenizers import AddedToken

    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])


def _write(tokenizer: Any, out_dir: Path) -> None:
    with atomic_open(out_dir / "tokenizer.json") as f:
        f.write(tokenizer.to_str(pretty=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TURN, "pad_token": END_OF_TEXT,
              "clean_up_tokenization_spaces": False, "model_max_length": 1_000_000}
    with atomic_open(out_dir / "tokenizer_config.json") as f:
        f.write(json.dumps(config, indent=1) + "\n")
