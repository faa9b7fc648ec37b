"""Build hook: generates the Python stubs of proto/ into fedmarket/pb/.

protoc writes `from fedmarket.v1 import head_pb2`, as if proto/ were on the import path. The stubs live in
`fedmarket.pb`, so that import is lifted to `from fedmarket.pb.fedmarket.v1 import head_pb2`.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("etcd", "fedmarket")
IMPORT = re.compile(rf"^(from|import) ((?:{'|'.join(PACKAGES)})(?:\.\w+)*)(?= import| as |$)", re.MULTILINE)
QUALIFIED = re.compile(rf"(?<![\w.])((?:{'|'.join(PACKAGES)})(?:\.\w+)*\.\w+_pb2)(?=\.)")


class StubsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Generates the stubs before the wheel, or the editable install, is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run protoc over every file below proto/."""
        generate(Path(self.root))


def generate(root: Path) -> None:
    """Generate fedmarket/pb/ of the tree at `root` anew."""
    target = root / "fedmarket" / "pb"
    for package in PACKAGES:
        shutil.rmtree(target / package, ignore_errors=True)
    protos = sorted(str(path.relative_to(root / "proto")) for path in (root / "proto").rglob("*.proto"))
    plugins = [f"--plugin={name}={_script(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{target}" for kind in ("mypy", "mypy_grpc")]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        str(root / "proto"),
        *plugins,
        *outputs,
        *protos,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for package in PACKAGES:
        for directory in [target / package, *(p for p in (target / package).rglob("*") if p.is_dir())]:
            (directory / "__init__.py").touch()
        for stub in [*(target / package).rglob("*_pb2*.py"), *(target / package).rglob("*_pb2*.pyi")]:
            lifted = IMPORT.sub(r"\1 fedmarket.pb.\2", stub.read_text())
            stub.write_text(QUALIFIED.sub(r"fedmarket.pb.\1", lifted) if stub.suffix == ".pyi" else lifted)


def _script(name: str) -> str:
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed; it comes with the package mypy-protobuf")
    return found


if __name__ == "__main__":
    generate(Path(__file__).parent)
