"""The shared helpers: commands, atomic files, checked mappings, YAML, provenance."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from espnet_mt_llm.common import (UserError, at, atomic_open, command, environment, flush_disk, from_mapping,
                                  git_commit, in_background, load_yaml, str2bool)


@dataclasses.dataclass(frozen=True)
class Options:
    source: str
    seed: int = 0


def test_mistake_has_the_one_form() -> None:
    assert str(at("a/text", 3, "is empty", "remove it")) == "a/text:3: is empty; remove it"
    assert str(at("a/text", None, "is empty")) == "a/text: is empty"


@pytest.mark.parametrize("error, code, message", [
    (UserError("x:1: wrong; do this"), 1, "x:1: wrong; do this"),
    (UserError("Caught UserError in worker.\nOriginal Traceback (most recent call last):\n  File\n"
               "espnet_mt_llm.common.UserError: x: wrong; do this"), 1, "x: wrong; do this"),
    (OSError(28, "No space left on device", "out.txt"), 1, "out.txt: No space left on device; nothing half-written"),
    (OSError(21, "Is a directory", ".tmp.x.out", None, "out"), 1, "out: Is a directory; nothing half-written was kept, "
     "give another path"),
    (ModuleNotFoundError("no", name="funasr"), 1, "'funasr' is missing; tools/check_install.py"),
    (KeyboardInterrupt(), 130, ""),
])
def test_command_tells_people(error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture) -> None:
    @command
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        main()
    printed = capsys.readouterr().err
    assert stopped.value.code == code and message in printed and "Traceback" not in printed


def test_other_errors_keep_their_traceback() -> None:
    @command
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("from espnet_mt_llm.common import command\n@command\ndef main():\n"
                      "    for i in range(100000): print(i)\nmain()\n")
    done = subprocess.run(f"{sys.executable} {script} | head -n 1", shell=True, capture_output=True, text=True)
    assert done.stdout == "0\n" and "Traceback" not in done.stderr


def test_atomic_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_open(path) as f:
        f.write("好")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "好"
    with pytest.raises(RuntimeError), atomic_open(path) as f:
        f.write("half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "好" and os.listdir(path.parent) == ["a.txt"]


def test_durability_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    for durable in (True, False):
        with atomic_open(tmp_path / "a.txt", durable=durable) as f:
            f.write("a")
        assert (tmp_path / "a.txt").read_text() == "a" and os.listdir(tmp_path) == ["a.txt"] and len(flushed) == 1


def test_the_disk_is_flushed_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").mkdir()
    flush_disk(tmp_path, tmp_path / "b")
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: SimpleNamespace(syncfs=lambda _: -1))
    monkeypatch.setattr("ctypes.get_errno", lambda: 5)
    with pytest.raises(OSError, match="Input/output error"):
        flush_disk(tmp_path)
    synced: list[bool] = []
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    flush_disk(tmp_path)
    assert synced == [True], "where there is no syncfs"


def test_calls_in_the_background_are_made_in_order_and_not_behind_a_failure() -> None:
    done: list = []
    with in_background() as later:
        for number in range(5):
            later(done.append, number)
    assert done == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError), in_background() as later:
        later(done.append, 5)
        later(int, "x")
        later(done.append, 6)
    assert done == [0, 1, 2, 3, 4, 5]


def test_mapping_to_dataclass() -> None:
    assert from_mapping(Options, {"source": "a"}, "c.yaml") == Options("a", 0)
    for values, message in (({"source": "a", "sed": 1}, "unknown key 'sed'; did you mean 'seed'?"),
                            ({"seed": 1}, "the key 'source' is missing"), (["a"], "expected 'key: value' lines")):
        with pytest.raises(UserError, match="c.yaml: ") as found:
            from_mapping(Options, values, "c.yaml")
        assert message in str(found.value)


def test_yaml_mistake_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\nb: [1,\n")
    with pytest.raises(UserError, match=r"a\.yaml:3: not valid YAML"):
        load_yaml(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="no such file"):
        load_yaml(tmp_path / "b.yaml")
    with pytest.raises(UserError, match="this is a directory; give the file"):
        load_yaml(tmp_path)


def test_true_and_false() -> None:
    assert str2bool("True") and not str2bool("no")
    with pytest.raises(ValueError, match="maybe"):
        str2bool("maybe")


def test_commit_tells_changes_of_the_code_from_results(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True,
                       capture_output=True)

    assert git_commit(tmp_path) == "unknown"
    for name in ("espnet_mt_llm/a.py", "egs2/mini/mtasr1/README.md", "egs2/mini/mtasr1/run.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = git_commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "egs2/mini/mtasr1/README.md").write_text("2")
    assert git_commit(tmp_path) == clean
    (tmp_path / "egs2/mini/mtasr1/run.sh").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"


def test_environment_names_machine_and_versions() -> None:
    found = environment()
    assert {"date", "commit", "machine", "python", "numpy", "meeteval"} <= set(found)
