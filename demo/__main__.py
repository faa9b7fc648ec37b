"""`python -m demo`: plays the story; `--keep` leaves the zones running, `--stop` ends them."""

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import images, keeping, processes, story, tools, zones
from demo.errors import DemoError, StepFailed
from demo.narrator import Narrator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody wants the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> int:
    """Run the demo; return its exit status: 0 done, 1 something does not hold, 128+n ended by a signal."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the zones running, with what the story made")
    parser.add_argument("--stop", action="store_true", help="end the zones that --keep left running")
    parser.add_argument("--directory", type=Path, default=tools.ROOT / ".demo", help="where everything is kept")
    arguments = parser.parse_args()
    directory = arguments.directory.absolute()
    tell = Narrator()
    end_by_signals()
    try:
        if arguments.stop:
            ended = stop(directory)
            tell.holds(f"Ended {', '.join(ended)}" if ended else "No demo is running")
        else:
            run(directory, tell, keep=arguments.keep)
    except StepFailed as failure:
        tell.failure(f"it does not hold\n  expected  {failure.expected}\n  saw       {failure.seen}")
        tell.say(f"The agents' logs are {directory}/*.log.")
        return 1
    except (DemoError, OSError) as error:
        tell.failure(str(error))
        return 1
    except Interrupted as interrupted:
        tell.failure(f"ended by {signal.Signals(interrupted.number).name}")
        return 128 + interrupted.number
    return 0


def run(directory: Path, tell: Narrator, *, keep: bool) -> None:
    """Play the story in a directory. Raises DemoError; whatever happens, only kept zones go on running."""
    directory.mkdir(exist_ok=True)
    with alone(directory):
        ended = stop(directory)
        if ended:
            tell.notice(f"An earlier demo was still running here; ended {', '.join(ended)}")
        zones.forget(directory)
        tools.need("etcd")
        begin = time.monotonic()
        stage = prepare(directory, tell, keep=keep)
        files: list[Path] = []
        try:
            story.play(stage)
            if keep:
                files = [keeping.write(zone) for zone in (stage.berlin, stage.tokyo)]
        finally:
            if not files:
                ignore_signals()  # ending the zones takes seconds at most, and must not be broken off
                ended = stop(directory)
        tell.say("")
        tell.holds(f"The story holds, all of it ({time.monotonic() - begin:.0f} s)")
        if keep:
            berlin, tokyo = (os.path.relpath(file) for file in files)
            tell.say(f"The zones go on running. In a shell: `. {berlin}` or `. {tokyo}`, then for instance:")
            tell.command("berlin", "fedmarket", "app", "list")
            tell.say("End them with `make demo-stop`.")
        else:
            tell.say(f"Ended {', '.join(ended)}.")
            tell.say("`make demo KEEP=1` leaves the zones running, to try things out.")


def prepare(directory: Path, tell: Narrator, *, keep: bool) -> story.Stage:
    """Lay out the two zones, nothing started yet, and find an image for them."""
    (directory / "cache").mkdir(exist_ok=True)
    ports = zones.free_ports(6)
    return story.Stage(
        directory=directory,
        berlin=zones.Zone(0, directory / "berlin", zones.Ports(*ports[:3]), tell),
        tokyo=zones.Zone(100, directory / "tokyo", zones.Ports(*ports[3:]), tell),
        image=images.find(directory / "cache"),
        tell=tell,
        keep=keep,
    )


def stop(directory: Path) -> list[str]:
    """End the zones of a directory, and remove the files that lead a shell to them; return what was ended."""
    ended = processes.stop(directory)
    for file in directory.glob("*.env"):
        file.unlink()
    return ended


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep a second demo out of the directory. Raises DemoError when this one is the second."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoError(f"Another demo is playing in {directory} right now; wait until it ends") from None
        yield


def end_by_signals() -> None:
    """Raise Interrupted at the first signal that asks to end; ignore the next ones, and what nohup had ignored."""

    def interrupt(number: int, _frame: object) -> None:
        ignore_signals()
        raise Interrupted(number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def ignore_signals() -> None:
    """Let nothing break off what must be finished now."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
