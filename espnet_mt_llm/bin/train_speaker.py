"""Train one step of the task speaker: python -m espnet_mt_llm.bin.train_speaker --config conf/speaker_…/01_….yaml …"""

from typing import Optional, Sequence

from espnet_mt_llm.common import command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the arguments of the task and train."""
    from espnet_mt_llm.tasks.speaker import SpeakerTask

    SpeakerTask.train(argv)


if __name__ == "__main__":
    main()
