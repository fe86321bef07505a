"""``conf/slurm.conf``: how a site's options become flags of sbatch (Kaldi's ``command/option/default`` lines)."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

from espnet_mt_llm.common import UserError, at, nearest

PATH = "conf/slurm.conf"


@dataclass(frozen=True)
class SlurmConf:
    """A parsed configuration.

    Attributes:
        command: the submitting command's words.
        options: option name → value or ``*`` → its flags, where ``$0`` stands for the value.
        defaults: option name → value used when the option is not given.
    """

    command: Sequence[str]
    options: Mapping[str, Mapping[str, str]]
    defaults: Mapping[str, str]

    def flags(self, given: Mapping[str, str], where: str = PATH) -> list:
        """Return the flags for the given options and the defaults.

        Raises:
            UserError: an option or a value that the configuration does not know.
        """
        words = []
        for name, value in {**self.defaults, **given}.items():
            choices = self.options.get(name)
            if choices is None:
                raise at(where, None, f"there is no option '{name}'", nearest(name, self.options))
            template = choices.get(value, choices.get("*"))
            if template is None:
                raise at(where, None, f"option '{name}' has no value '{value}'", nearest(value, choices))
            words += [word.replace("$0", value) for word in shlex.split(template)]
        return words


def read(path: str) -> SlurmConf:
    """Parse a configuration.

    Raises:
        UserError: it does not exist, or a line is none of Kaldi's three forms.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise at(path, None, "no such file",
                 "give --config, or make a recipe by egs2/TEMPLATE/mtasr1/setup.sh") from None
    command, options, defaults = ["sbatch"], {}, {}
    for number, line in enumerate(lines, 1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        keyword, _, rest = line.partition(" ")
        setting, _, flags = rest.strip().partition(" ")
        name, equals, value = setting.partition("=")
        name = name.replace("-", "_")
        if keyword == "command" and rest.strip():
            command = shlex.split(rest)
        elif keyword == "option" and equals:
            options.setdefault(name, {})[value] = flags.strip()
        elif keyword == "default" and equals and not flags:
            defaults[name] = value
        else:
            raise at(path, number, f"not understood: {line}",
                     "write 'command sbatch …', 'option name=value flags' or 'default name=value'")
    return SlurmConf(command, options, defaults)


def option_names(path: Optional[str] = None) -> list:
    """Return the option names of a configuration, none when there is no such file.

    A site's own options are accepted on the local machine as well: the same recipe runs there.
    """
    try:
        return list(read(path or PATH).options)
    except UserError:
        return []
