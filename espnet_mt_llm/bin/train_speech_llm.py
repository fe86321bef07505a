"""Train one step of a speech LLM: python -m espnet_mt_llm.bin.train_speech_llm --config conf/speakerlm/01_….yaml …"""

from typing import Optional, Sequence

from espnet_mt_llm.common import command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the arguments of the task and train."""
    from espnet_mt_llm.tasks.speech_llm import SpeechLLMTask

    SpeechLLMTask.train(argv)


if __name__ == "__main__":
    main()
