"""Kaldi's launcher grammar: ``[--mem 4G] [--gpu 1] … [JOB=1:N] log/x.JOB.log command …``, parsed and filled in."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Mapping, Optional, Sequence

from espnet_mt_llm.common import UserError, nearest

OPTIONS = ("config", "gpu", "max_jobs_run", "mem", "name", "num_nodes", "num_threads", "pick", "time")
PICKS = ("all", "failed", "incomplete")
# Words that bash, not the command, shall read: pipes, redirections, separators. Everything else is quoted, so that a
# file name or a JSON text with special characters arrives as it was given.
OPERATOR = re.compile(r"[|&;!]|\|\||&&|\d*(>>?|<)(&?\d*|[\w@%+=:,./^-]*)|&>>?[\w@%+=:,./^-]*")
# Words without white space that may hold shell variables or arithmetic, as in ``--seed $[JOB+1]``.
PLAIN = re.compile(r"(?:[\w@%+=:,./^-]|\$\[[^]]*\]|\$\{\w+\}|\$\w+)+;?", re.ASCII)


@dataclass(frozen=True)
class Launch:
    """One call of a launcher.

    Attributes:
        options: option name (with underscores) → value.
        variable: the name that stands for the job number, ``None`` for a single job without one.
        numbers: the job numbers, ``(1,)`` for a single job.
        log: the log file, still with the variable in it.
        command: the words of the command, still with the variable in them.
    """

    options: Mapping[str, str]
    variable: Optional[str]
    numbers: Sequence[int]
    log: str
    command: Sequence[str]

    def log_of(self, number: int) -> Path:
        """Return the log file of job ``number``."""
        return Path(fill(self.log, self.variable, number))

    def line_of(self, number: int) -> str:
        """Return the bash command line of job ``number``."""
        return shell_line([fill(word, self.variable, number) for word in self.command])

    def integer(self, option: str, default: int, least: int = 0) -> int:
        """Return an option's value as a whole number of at least ``least``.

        Raises:
            UserError: it is none.
        """
        value = str(self.options.get(option, default))
        if not value.isdigit() or int(value) < least:
            raise UserError(f"--{option} {value}: not a whole number of at least {least}; "
                            f"write --{option} {max(default, least)}")
        return int(value)


def fill(text: str, variable: Optional[str], number: int, by: str = "") -> str:
    """Replace ``variable`` by ``number`` (or ``by``) where it is a word of its own, unlike ``JOBS`` and ``MY_JOB``.

    >>> fill("split4/JOB/x.JOB.scp ${JOB} JOBS", "JOB", 3)
    'split4/3/x.3.scp 3 JOBS'
    """
    if variable is None:
        return text
    return _delimited(variable).sub(by or str(number), text)


def _delimited(variable: str) -> "re.Pattern[str]":
    return re.compile(rf"\$\{{{variable}\}}|(?<![A-Za-z0-9_]){variable}(?![A-Za-z0-9_])")


def shell_line(words: Iterable[str]) -> str:
    r"""Join words into a bash line; operators given as words of their own (``\|``, ``\>file``) keep their meaning.

    >>> shell_line(["gunzip", "-c", "a b.gz", "|", "wc", "-l", ">n"])
    "gunzip -c 'a b.gz' | wc -l >n"
    """
    return " ".join(w if OPERATOR.fullmatch(w) or PLAIN.fullmatch(w) else shlex.quote(w) for w in words)


def parse(arguments: Sequence[str], more_options: Iterable[str] = ()) -> Launch:
    """Parse a launcher's arguments; option names may be written with ``-`` or ``_``.

    Args:
        arguments: without the program's name.
        more_options: option names that the site's configuration adds to :data:`OPTIONS`.

    Raises:
        UserError: an unknown option (the nearest one is named), a bad range, a log without the job variable, …
    """
    words = list(arguments)
    options = _take_options(words, {*OPTIONS, *more_options})
    variable, numbers = None, (1,)
    match = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", words[0]) if words else None
    if match:
        # Kaldi accepts options behind the range, too.
        del words[0]
        options.update(_take_options(words, {*OPTIONS, *more_options}))
        variable = match.group(1)
        first, last = int(match.group(2)), int(match.group(3) or match.group(2))
        if first < 1 or last < first:
            raise UserError(f"{match.group(0)}: job numbers start at 1 and rise; "
                            f"write {variable}=1:{max(first, last, 1)}")
        numbers = tuple(range(first, last + 1))
    elif words and re.match(r"[A-Za-z_]\w*=", words[0]):
        raise UserError(f"{words[0]}: not a range of jobs; write e.g. JOB=1:4")
    if len(words) < 2:
        raise UserError("a log file and a command are missing; usage: [options] [JOB=1:N] log/x.JOB.log command …")
    launch = Launch(options, variable, numbers, words[0], tuple(words[1:]))
    _check(launch)
    return launch


def _take_options(words: list, valid: Iterable[str]) -> dict:
    options = {}
    while words and words[0].startswith("-"):
        option = words.pop(0)
        name = option.lstrip("-").replace("-", "_")
        if option == "-V":
            continue
        if name == "sync":  # queue.pl's -sync y: these launchers always wait.
            words[:1] = []
            continue
        if name not in valid:
            raise UserError(f"unknown option {option}; {nearest('--' + name, ['--' + v for v in valid])}")
        if not words:
            raise UserError(f"{option} needs a value")
        options[name] = words.pop(0)
    return options


def _check(launch: Launch) -> None:
    pick = launch.options.get("pick", "all")
    for choice in pick.split(","):
        if choice not in PICKS:
            raise UserError(f"--pick {pick}: not one of {', '.join(PICKS)}; {nearest(choice, PICKS)}")
    if launch.log.endswith("/") or os.path.isdir(launch.log):
        raise UserError(f"{launch.log}: is a directory; name a log file, e.g. {launch.log.rstrip('/')}/x.JOB.log")
    if launch.variable is None:
        return
    if len(launch.numbers) > 1 and launch.log_of(1) == launch.log_of(2):
        raise UserError(f"{launch.log}: all jobs would write to this log; put {launch.variable} into its name "
                        f"as a word of its own, e.g. log/x.{launch.variable}.log")
    for word in (launch.log, *launch.command):
        for match in _delimited(launch.variable).finditer(word):
            component = word[:match.end()] + word[match.end():].split("/", 1)[0]
            if "/" in word and os.path.isdir(component):
                raise UserError(f"{component}: this directory exists, so {launch.variable} in it is no job number; "
                                f"choose another variable, e.g. NUMBER=1:{len(launch.numbers)}, or rename the "
                                "directory")
