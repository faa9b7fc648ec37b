"""Files for a shell that goes on with the zones which `make demo KEEP=1` left running: `. .demo/berlin.env`."""

import shlex
from pathlib import Path

from demo import processes
from demo.command import BIN
from demo.errors import DemoError
from demo.zones import Zone


def write(zone: Zone) -> Path:
    """Write the file of a running zone, beside the zone's directory; return its path."""
    agent = processes.agents(zone.directory.parent).get(zone.name)
    etcd = [child for child in processes.descendants(agent) if child.name == "etcd"] if agent else []
    if agent is None or len(etcd) != 1:
        raise DemoError(f"The agent of {zone.name} and its etcd are not running as they should; see {zone.log}")
    path = zone.directory.with_suffix(".env")
    path.write_text(text(zone.variables | {"FEDMARKET_PID": str(agent.pid), "ETCD_PID": str(etcd[0].pid)}))
    return path


def text(variables: dict[str, str]) -> str:
    """Return POSIX shell that exports the variables and puts `fedmarket` on PATH, once."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    path = f'case ":$PATH:" in *:{shlex.quote(str(BIN))}:*) ;; *) export PATH={shlex.quote(str(BIN))}":$PATH" ;; esac'
    return "\n".join([*exports, path, ""])
