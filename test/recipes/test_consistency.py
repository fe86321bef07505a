"""What every recipe must keep: paths that exist, links that stay inside, short run.sh, a skeleton that works."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(p for p in ROOT.glob("egs2/*/mtasr1") if p.parent.name != "TEMPLATE")
TRACKED = [ROOT / line for line in subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
           .stdout.splitlines()]
SHELL = sorted({p for p in TRACKED if p.suffix == ".sh" and p.exists()} | {ROOT / ".ci/run"})
PATHS = re.compile(r"(?<![\w/.$}\"-])\.?/?((?:conf|local|utils|tools|egs2)/[\w./-]*\w)(?![\w/<{$*]|\.\$)")


def test_no_link_leaves_the_repository() -> None:
    links = [path for path in TRACKED if path.is_symlink()]
    assert links, "recipes link to the template"
    for path in links:
        assert not os.path.isabs(os.readlink(path)), path
        assert path.resolve().is_relative_to(ROOT) and path.exists(), path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.parent.name)
def test_recipe_has_what_the_driver_uses(recipe: Path) -> None:
    for name in ("run.sh", "mtasr.sh", "local/data.sh"):
        assert os.access(recipe / name, os.X_OK), name
    for name in ("path.sh", "cmd.sh", "db.sh", "conf/slurm.conf", "utils/run.py", "utils/validate_data_dir.sh"):
        assert (recipe / name).exists(), name
    for name in ("mtasr.sh", "data_stages.sh", "path.sh", "cmd.sh", "utils"):
        assert (recipe / name).is_symlink(), f"{name}: a copy would miss what is repaired in TEMPLATE"
    lines = (recipe / "run.sh").read_text().splitlines()
    assert len(lines) <= 40 and "set -euo pipefail" in lines and lines[-1].strip() == '"$@"'


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.parent.name)
def test_paths_named_in_scripts_exist(recipe: Path) -> None:
    for name in ("run.sh", "mtasr.sh", "data_stages.sh", "path.sh", "cmd.sh", "db.sh", "local/data.sh"):
        for path in PATHS.findall(_code(recipe / name)):
            if "/" in path and not path.endswith(("simulate.yaml", "none.yaml")):
                assert (recipe / path).exists() or (ROOT / path).exists(), f"{name} names {path}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.parent.name)
def test_modules_named_in_scripts_exist(recipe: Path) -> None:
    for name in ("mtasr.sh", "data_stages.sh", "local/data.sh"):
        for module in re.findall(r"espnet_mt_llm\.bin\.(\w+)\b(?!_\$)", _code(recipe / name)):
            if not module.endswith("_"):
                assert (ROOT / f"espnet_mt_llm/bin/{module}.py").exists(), f"{name} names {module}"


@pytest.mark.parametrize("script", SHELL, ids=lambda p: str(p.relative_to(ROOT)))
def test_shell_scripts_are_sound(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    text = script.read_text()
    if os.access(script, os.X_OK) and "exec " not in text:
        assert "set -euo pipefail" in text, "strict mode"
    assert max(map(len, text.splitlines())) <= 130
    assert text.count("\n") < 500, "split it"


def test_setup_makes_a_recipe_whose_links_work(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    (root / "egs2").mkdir(parents=True)
    for name in ("utils", "espnet_mt_llm"):
        (root / name).symlink_to(ROOT / name)
    subprocess.run(["cp", "-r", ROOT / "egs2/TEMPLATE", root / "egs2/TEMPLATE"], check=True)
    setup = root / "egs2/TEMPLATE/mtasr1/setup.sh"
    for _again in range(2):
        subprocess.run([setup, "egs2/other/mtasr1"], check=True, cwd=root, capture_output=True)
        with open(root / "egs2/other/mtasr1/db.sh", "a") as f:
            f.write("# mine\n")
    recipe = root / "egs2/other/mtasr1"
    assert (recipe / "db.sh").read_text().count("# mine") == 2, "what belongs to the recipe is never overwritten"
    help_text = subprocess.run([recipe / "run.sh", "--help"], capture_output=True, text=True)
    assert help_text.returncode == 0 and "--stop_stage pack" in help_text.stdout
    wrong = subprocess.run([setup, "elsewhere/x"], cwd=root, capture_output=True, text=True)
    assert wrong.returncode == 1 and "usage: egs2/TEMPLATE/mtasr1/setup.sh egs2/<corpus>/mtasr1" in wrong.stderr


def _code(script: Path) -> str:
    """Return a script without its comments."""
    return "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in script.read_text().splitlines())
