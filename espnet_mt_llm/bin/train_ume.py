"""Train one step of the system ume: python -m espnet_mt_llm.bin.train_ume --config conf/ume/01_….yaml …"""

from typing import Optional, Sequence

from espnet_mt_llm.common import command


@command
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Parse the arguments of the task and train."""
    from espnet_mt_llm.tasks.ume import UMETask

    UMETask.train(argv)


if __name__ == "__main__":
    main()
