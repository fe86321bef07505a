"""Sessions that cannot be used: collected, so that one never stops the others, and listed in ``problems.tsv``."""

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from espnet_mt_llm.common import Pathlike, UserError, atomic_open

log = logging.getLogger(__name__)


class Problems:
    """What went wrong in which session of which set.

    Args:
        out: the folder of the data directories, or the dump directory; ``problems.tsv`` is written there.
        without: the command that goes on without the bad sessions.
    """

    def __init__(self, out: Pathlike, without: str = "./run.sh --allow_problems true"):
        self.path = Path(out) / "problems.tsv"
        self.without = without
        self.rows: list[tuple[str, str, str]] = []
        self._sessions: set[tuple[str, str]] = set()
        self._counted: dict[str, int] = {}

    def add(self, set_name: str, session: str, problem: str) -> None:
        """Record a problem and log it."""
        problem = " ".join(problem.split())
        self._sessions.add((set_name, session))
        self.rows.append((set_name, session, problem))
        log.warning("%s: %s has a problem: %s", set_name, session, problem)

    @contextmanager
    def of(self, set_name: str, session: str) -> Iterator[None]:
        """Turn a :class:`UserError` of the block into a problem of this session; the work goes on after the block."""
        if set_name not in self._counted:
            self._sessions.add((set_name, session))
        try:
            yield
        except UserError as e:
            self.add(set_name, session, str(e))

    def count(self, set_name: str, sessions: int) -> None:
        """Say how many sessions a set has, whose names are too many to be kept."""
        self._counted[set_name] = sessions

    def merge(self, other: "Problems") -> None:
        """Take over what another process found; it is logged already."""
        self.rows += other.rows
        self._sessions |= other._sessions
        self._counted.update(other._counted)

    def finish(self, allow: bool) -> None:
        """Write ``problems.tsv``, or remove it when there are none; what it says of other sets, other corpora, stays.

        Raises:
            UserError: there are problems, and they are not allowed.
        """
        rows = sorted(set(self.rows) | self._of_other_sets())
        if rows:
            with atomic_open(self.path) as f:
                f.write("set\tsession\tproblem\n")
                f.writelines("\t".join(row) + "\n" for row in rows)
        else:
            self.path.unlink(missing_ok=True)
        if not self.rows:
            return
        bad = len({row[:2] for row in self.rows})
        total = sum(self._counted.values()) + sum(name not in self._counted for name, _ in self._sessions)
        message = f"{bad} of {total} sessions {'has' if bad == 1 else 'have'} problems, see {self.path}"
        if not allow:
            raise UserError(f"{message}; everything else was prepared; repair them and run again, "
                            f"or go on without them: {self.without}")
        log.warning("%s; everything else was prepared", message)

    def _of_other_sets(self) -> set[tuple[str, str, str]]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()[1:]
        except FileNotFoundError:
            return set()
        mine = {name for name, _ in self._sessions} | set(self._counted)
        rows = (tuple((line + "\t\t").split("\t")[:3]) for line in lines)
        return {row for row in rows if row[0] not in mine}
