"""The package as a user installs it: a wheel that was built from a clean tree, with the stubs inside."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ("fedmarket/pb/fedmarket", "fedmarket/pb/etcd")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in ("fedmarket", "federation", "drivers", "zone_agent", "proto"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for generated in GENERATED:
        shutil.rmtree(tree / generated, ignore_errors=True)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(out), str(tree)], check=True, capture_output=True, timeout=100)
    (made,) = out.glob("fedmarket-*.whl")
    return made


def test_the_wheel_holds_every_package_and_the_stubs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for expected in (
        "fedmarket/pb/fedmarket/v1/peer_pb2.py",
        "fedmarket/pb/fedmarket/v1/peer_pb2_grpc.pyi",
        "fedmarket/pb/etcd/rpc_pb2_grpc.py",
        "fedmarket/py.typed",
        "federation/link/sink.py",
        "drivers/testkit/writable.py",
        "zone_agent/agent.py",
    ):
        assert expected in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "demo/")) for name in names)


def test_the_stubs_of_the_wheel_import_each_other_as_fedmarket_pb(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from fedmarket.pb.fedmarket.v1 import peer_pb2_grpc, app_pb2; import fedmarket; print(fedmarket.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(str(tmp_path))
