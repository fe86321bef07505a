"""Train one step of the system sctc: python -m espnet_mt_llm.bin.train_sctc --config conf/sctc/01_….yaml …"""

from typing import Optional, Sequence

from espnet_mt_llm.common import command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the arguments of the task and train."""
    from espnet_mt_llm.tasks.sctc import SCTCTask

    SCTCTask.train(argv)


if __name__ == "__main__":
    main()
