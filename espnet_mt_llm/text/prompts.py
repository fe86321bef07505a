"""The prompts of the speech LLMs: templates, and the same as text and places for audio and registered voices."""

from typing import Any, List, Sequence, Union

from espnet_mt_llm.common import UserError, nearest
from espnet_mt_llm.text.names import check_names

# What stands in a prompt's ids where no token does: the audio, and the k-th registered voice (see enroll).
AUDIO = -1
# `<mode>` of a style: asr transcribes alone, no registers nobody, match registers the speakers of the clip, over also
# others. The registered modes of both, and asr of dual, are not published; they are worded after those that are.
PROMPTS = {
    # SpeakerLM (arXiv 2508.06372) and its page of prompts.
    "speakerlm": {
        "asr": "You are a helpful assistant. Transcribe the speech. <start>{audio}<end>",
        "no": "You are a helpful assistant. Transcribe by roles. <start>{audio}<end>",
        "match": "{registered}You are a helpful assistant. Transcribe by roles with the registered speakers. "
                 "<start>{audio}<end>",
    },
    # arXiv 2606.13095 does not print its prompt.
    "dual": {
        "asr": "<|im_start|>user\n{audio}Transcribe the speech.<|im_end|>\n<|im_start|>assistant\n",
        "no": "<|im_start|>user\n{audio}Transcribe the conversation with speaker IDs.<|im_end|>\n"
              "<|im_start|>assistant\n",
        "match": "<|im_start|>user\n{registered}{audio}Transcribe the conversation with the registered speakers."
                 "<|im_end|>\n<|im_start|>assistant\n",
    },
}
for _style in PROMPTS.values():
    _style["over"] = _style["match"]
MODES = ("asr", "no", "match", "over")

Prompt = List[Union[str, int]]


def enroll(k: int) -> int:
    """Return what stands for the k-th registered voice, counted from 0: -2, -3, …"""
    return -2 - k


def template(style: str, mode: str) -> str:
    """Return the template of ``style`` (``speakerlm``, ``dual``) for ``mode``.

    Raises:
        UserError: an unknown style or mode.
    """
    for what, value, valid in (("prompt", style, PROMPTS), ("registration mode", mode, MODES)):
        if value not in valid:
            raise UserError(f"unknown {what} '{value}'; {nearest(str(value), valid)}")
    return PROMPTS[style][mode]


def build_prompt(text: str, names: Sequence[str] = ()) -> Prompt:
    """Cut a template into text and places.

    ``{audio}`` is where the clip goes, ``{registered}`` where the entries ``<name><start>{voice}<end>`` go, in the
    order of ``names``.

    >>> build_prompt(template("speakerlm", "no"))
    ['You are a helpful assistant. Transcribe by roles. <start>', -1, '<end>']
    >>> build_prompt("{registered}Who? {audio}", ["Mike", "张三"])
    ['Mike<start>', -2, '<end>张三<start>', -3, '<end>Who? ', -1]

    Raises:
        UserError: not one ``{audio}``, another place than these, names where the template has no place for them, or
            names that cannot be labels.
    """
    names = check_names(names)
    if text.count("{audio}") != 1 or text.count("{registered}") > 1:
        raise UserError(f"the prompt {text!r} needs {{audio}} once, and {{registered}} once at most")
    if names and "{registered}" not in text:
        raise UserError(f"the prompt {text!r} has no {{registered}}, but {len(names)} speakers are registered; add it")
    out: Prompt = []
    for part in _split(text):
        if part == "{audio}":
            out.append(AUDIO)
        elif part == "{registered}":
            for k, name in enumerate(names):
                out += [f"{name}<start>", enroll(k), "<end>"]
        else:
            out.append(part)
    return _joined(out)


def _split(text: str) -> List[str]:
    before, audio, after = text.partition("{audio}")
    out: List[str] = []
    for part in (before, audio, after):
        left, registered, right = part.partition("{registered}")
        out += [p for p in (left, registered, right) if p]
    return out


def _joined(parts: Prompt) -> Prompt:
    out: Prompt = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        else:
            out.append(part)
    return out


def encode_prompt(prompt: Prompt, tokenizer: Any) -> List[int]:
    """Return token ids, with the negative numbers of the places between them.

    Args:
        tokenizer: an ``LLMTokenizer``.
    """
    out: List[int] = []
    for part in prompt:
        out.extend([part] if isinstance(part, int) else tokenizer.encode(part))
    return out
