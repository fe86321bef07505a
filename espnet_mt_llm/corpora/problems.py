"""Sessions that cannot be prepared: collected, so that one never stops the others, and listed in ``problems.tsv``."""

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from espnet_mt_llm.common import Pathlike, UserError, atomic_open

log = logging.getLogger(__name__)


class Problems:
    """What went wrong in which session of which set.

    Args:
        out: the folder of the data directories; ``problems.tsv`` is written there.
    """

    def __init__(self, out: Pathlike):
        self.path = Path(out) / "problems.tsv"
        self.rows: list[tuple[str, str, str]] = []
        self._sessions: set[tuple[str, str]] = set()

    def add(self, set_name: str, session: str, problem: str) -> None:
        """Record a problem and log it."""
        problem = " ".join(problem.split())
        self._sessions.add((set_name, session))
        self.rows.append((set_name, session, problem))
        log.warning("%s: %s is left out: %s", set_name, session, problem)

    @contextmanager
    def of(self, set_name: str, session: str) -> Iterator[None]:
        """Turn a :class:`UserError` of the block into a problem of this session; the work goes on after the block."""
        self._sessions.add((set_name, session))
        try:
            yield
        except UserError as e:
            self.add(set_name, session, str(e))

    def merge(self, other: "Problems") -> None:
        """Take over what another process found; it is logged already."""
        self.rows += other.rows
        self._sessions |= other._sessions

    def finish(self, allow: bool) -> None:
        """Write ``problems.tsv``, or remove an old one when all went well.

        Raises:
            UserError: there are problems, and they are not allowed.
        """
        if not self.rows:
            self.path.unlink(missing_ok=True)
            return
        with atomic_open(self.path) as f:
            f.write("set\tsession\tproblem\n")
            f.writelines("\t".join(row) + "\n" for row in sorted(set(self.rows)))
        bad = len({row[:2] for row in self.rows})
        message = f"{bad} of {len(self._sessions)} sessions {'has' if bad == 1 else 'have'} problems, see {self.path}"
        if not allow:
            raise UserError(f"{message}; everything else was prepared; repair them and run again, "
                            "or --allow_problems true")
        log.warning("%s; everything else was prepared", message)
