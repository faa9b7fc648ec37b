import subprocess
from pathlib import Path

from demo import keeping
from demo.command import BIN

AWKWARD = 'it\'s a "$HOME" `with` spaces'


def sourced(file: Path, print_variable: str, path: str) -> str:
    script = f'. "$1"; . "$1"; printf %s "${print_variable}"'
    return subprocess.run(
        ["/bin/sh", "-euc", script, "sh", str(file)], env={"PATH": path}, capture_output=True, text=True, check=True
    ).stdout


def test_a_shell_that_sources_the_file_has_the_variables(tmp_path: Path) -> None:
    file = tmp_path / "zone.env"
    file.write_text(keeping.text({"FEDMARKET_CREDENTIALS": AWKWARD, "ETCD_PID": "12"}))
    assert sourced(file, "FEDMARKET_CREDENTIALS", "/usr/bin:/bin") == AWKWARD
    assert sourced(file, "ETCD_PID", "/usr/bin:/bin") == "12"


def test_the_command_comes_first_on_path_and_only_once(tmp_path: Path) -> None:
    file = tmp_path / "zone.env"
    file.write_text(keeping.text({}))
    assert sourced(file, "PATH", "/usr/bin:/bin") == f"{BIN}:/usr/bin:/bin"
