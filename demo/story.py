"""The story, step by step: what two zones that share a marketplace can do, and what they refuse.

Each step runs the commands that a user would type, then checks with `--json`, and on the stored bytes themselves,
that what it tells is so.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from demo import boot, bootsector, processes
from demo.errors import StepFailed, expect
from demo.images import BootImage
from demo.narrator import Narrator
from demo.zones import Zone

MARKET = "golden"
LINK_TIMEOUT = 30.0
"""Seconds in which both zones must have started and follow each other."""
SEEN_TIMEOUT = 10.0
"""Seconds in which a change in one zone must be seen in the other; well under 2 is usual."""
TOKYO_DISK_SIZE = 1024 * 1024


@dataclass
class Stage:
    """What the story is played with, and what it has seen so far."""

    directory: Path
    berlin: Zone
    tokyo: Zone
    image: BootImage
    tell: Narrator
    keep: bool
    seen_after: float | None = None
    """Seconds from the app's creation in berlin until tokyo listed it."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the same bytes, by where they were seen."""


def make_zones(stage: Stage) -> None:
    """Make both zones, start their agents, and wait until each follows the other."""
    zones = (stage.berlin, stage.tokyo)
    for zone in zones:
        zone.make()
    stage.berlin.trust(stage.tokyo)
    stage.tokyo.trust(stage.berlin)
    stage.tell.holds("Each zone.toml lists the other zone as a peer: its id, its address, its public key")
    begin = time.monotonic()
    for zone in zones:
        zone.start(keep=stage.keep)
    linked = processes.wait_until(
        lambda: stage.berlin.follows(stage.tokyo) and stage.tokyo.follows(stage.berlin), LINK_TIMEOUT
    )
    seen = {zone.name: zone.try_ask("federation", "status") or f"no answer, see {zone.log}" for zone in zones}
    expect(linked, f"each zone to follow the other within {LINK_TIMEOUT:.0f} seconds", seen)
    stage.tell.holds(f"Both follow each other over mutual TLS, {_since(begin)} after their start")
    stage.berlin.run("zone", "list")
    stage.tokyo.run("federation", "status")


def import_image(stage: Stage) -> None:
    """Import the bootable disk."""
    image = stage.image
    stage.tell.say(f"{image.path.name} is {image.origin}: {image.path.stat().st_size:,} bytes")
    stage.berlin.run("image", "import", str(image.path), "--name", image.name, "--datastore", "default")
    stored = stage.berlin.ask("image", "show", image.name)
    expect(stored["state"] == "ready", "the image to be ready", stored["state"])
    stage.digests["the file itself"] = _sha256(image.path)
    stage.digests["image in berlin"] = stored["sha256"]
    _expect_equal(stage)
    stage.tell.holds(f"Image {stored['id']} is ready; its SHA-256 is the file's")


def create_market(stage: Stage) -> None:
    """Create the market."""
    stage.berlin.run("market", "create", "--name", MARKET, "--driver", "http", "--scope", "federation")
    stage.berlin.run("market", "list")


def create_app(stage: Stage) -> None:
    """Create the app, and take the time until tokyo lists it."""
    name = stage.image.name
    stage.berlin.run("app", "create", "--image", name, "--market", MARKET, "--name", name)
    begin = time.monotonic()
    if processes.wait_until(lambda: _state(stage.tokyo, name) == "ready", SEEN_TIMEOUT):
        stage.seen_after = time.monotonic() - begin
    app = stage.berlin.ask("app", "show", name)
    expect(app["state"] == "ready", "the app to be ready", app["state"])
    stage.digests["app in berlin"] = app["sha256"]
    _expect_equal(stage)
    stage.tell.holds(f"App {app['id']} is ready, with the image's SHA-256")


def see_app(stage: Stage) -> None:
    """Look at the app from tokyo."""
    expect(stage.seen_after is not None, f"tokyo to list the app within {SEEN_TIMEOUT:.0f} seconds", "it does not")
    stage.tokyo.run("app", "list")
    app = stage.tokyo.ask("app", "show", stage.image.name)
    expect(app["zone_id"] == stage.berlin.id, "the app to be berlin's", app)
    stage.digests["app in tokyo"] = app["sha256"]
    _expect_equal(stage)
    stage.tell.holds(
        f"tokyo listed the app {stage.seen_after:.2f} s after berlin had created it, the run of the command included"
    )


def refuse_foreign_app(stage: Stage) -> None:
    """Try to create an app of tokyo's in berlin's market."""
    disk = stage.directory / "tokyo-disk.img"
    bootsector.write_disk(disk, TOKYO_DISK_SIZE)
    stage.tokyo.run("image", "import", str(disk), "--name", "tokyo-disk", "--datastore", "default")
    words = ("app", "create", "--image", "tokyo-disk", "--market", MARKET, "--name", "tokyo-app")
    refusal = stage.tokyo.refused(*words)
    expect("berlin" in refusal, "the refusal to name the market's home zone", refusal)
    for zone in (stage.berlin, stage.tokyo):
        expect(_state(zone, "tokyo-app") is None, f"no such app in {zone.name}", "there is one")
    stage.tell.holds("Refused, and neither zone has such an app")


def export_app(stage: Stage) -> None:
    """Export the app, and compare all digests and stored bytes."""
    name = stage.image.name
    stage.tokyo.run("app", "export", name, "--datastore", "default", "--name", name)
    image = stage.tokyo.ask("image", "show", name)
    expect(image["state"] == "ready", "the image to be ready", image["state"])
    stage.digests["image in tokyo"] = image["sha256"]
    stage.digests["bytes stored in berlin"] = _sha256(_stored(stage.berlin, name))
    stage.digests["bytes stored in tokyo"] = _sha256(_stored(stage.tokyo, name))
    _expect_equal(stage)
    for where, digest in stage.digests.items():
        stage.tell.fact(where, digest)
    stage.tell.holds("The same bytes everywhere")


def download_app(stage: Stage) -> None:
    """Download the app from tokyo."""
    target = stage.directory / "downloaded.img"
    stage.tokyo.run("app", "download", stage.image.name, str(target))
    stage.digests["downloaded file"] = _sha256(target)
    _expect_equal(stage)
    stage.tell.holds("The downloaded file is the one that berlin imported")


def boot_image(stage: Stage) -> None:
    """Boot what tokyo stored, where qemu is there."""
    if not boot.possible():
        stage.tell.notice(
            f"{boot.QEMU} is not installed here, so the image is not booted; its bytes are compared above."
        )
        return
    image = stage.tokyo.ask("image", "show", stage.image.name)
    disk = _stored(stage.tokyo, stage.image.name)
    stage.tell.command("tokyo", *boot.command(disk, image["format"]))
    seconds = boot.boot(disk, image["format"], stage.image.shows)
    stage.tell.holds(f"It boots: {stage.image.shows!r} stood on its console after {seconds:.1f} s")


def clean_up(stage: Stage) -> None:
    """Delete what the story made."""
    name = stage.image.name
    stage.berlin.refused("market", "delete", MARKET)
    stage.tell.holds("A market that holds an app cannot be deleted")
    stage.berlin.run("app", "delete", name)
    gone = processes.wait_until(lambda: _state(stage.tokyo, name) is None, SEEN_TIMEOUT)
    expect(gone, f"the app to be gone from tokyo within {SEEN_TIMEOUT:.0f} seconds", "it is still listed")
    stage.berlin.run("market", "delete", MARKET)
    stage.berlin.run("image", "delete", name)
    kept = _sha256(_stored(stage.tokyo, name))
    expect(kept == stage.digests["the file itself"], "tokyo's image to be whole still", kept)
    stage.tell.holds("The app is gone in both zones; the image that tokyo brought home is tokyo's own, and stays")
    stage.tokyo.run("image", "delete", name)


@dataclass(frozen=True)
class Step:
    """One step of the story."""

    title: str
    about: str
    """What it is for, told before it begins."""
    play: Callable[[Stage], None]


STEPS = (
    Step(
        "Two zones, linked",
        "Each zone gets an agent and an etcd of its own. All they are told of each other is an address and a key.",
        make_zones,
    ),
    Step(
        "An image in berlin",
        "Berlin has a bootable disk, and puts it into its own datastore.",
        import_image,
    ),
    Step(
        "A marketplace in berlin",
        "Berlin opens a marketplace that the whole federation sees, and that berlin alone can write to.",
        create_market,
    ),
    Step(
        "The image becomes an app",
        "The image becomes an app of that market.",
        create_app,
    ),
    Step(
        "The app appears in tokyo",
        "Nobody asked tokyo to look: its agent follows berlin's catalog, and checks berlin's signature on it.",
        see_app,
    ),
    Step(
        "Tokyo cannot write to berlin's market",
        "The rule: an app can be created only in a market of the local zone.",
        refuse_foreign_app,
    ),
    Step(
        "Tokyo exports the app",
        "Tokyo brings the app's bytes into its own datastore; every one is checked on arrival.",
        export_app,
    ),
    Step(
        "Tokyo downloads the app",
        "A user of tokyo can also have the app as a plain file.",
        download_app,
    ),
    Step(
        "The exported image boots",
        "The image that came to tokyo is a machine's disk: start the machine.",
        boot_image,
    ),
    Step(
        "Everything can be taken away",
        "What was made can be taken away, in the right order only.",
        clean_up,
    ),
)


def play(stage: Stage) -> None:
    """Play the story; zones that are kept also keep what the last step would take away. Raises DemoError."""
    stage.tell.say(
        "In what follows, berlin$ and tokyo$ are shells whose FEDMARKET_ENDPOINT and FEDMARKET_CREDENTIALS name "
        "the agent of that zone."
    )
    for step in STEPS:
        if stage.keep and step.play is clean_up:
            continue
        stage.tell.begin(step.title, step.about)
        step.play(stage)


def _state(zone: Zone, app: str) -> str | None:
    """Return the state of the app that a zone lists by that name, or None."""
    states = [str(listed["state"]) for listed in zone.ask("app", "list") if listed["name"] == app]
    return states[0] if states else None


def _stored(zone: Zone, image: str) -> Path:
    path = Path(zone.ask("image", "show", image)["source"])
    expect(path.is_file(), f"the datastore's file of {image} in {zone.name}", path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _expect_equal(stage: Stage) -> None:
    if len(set(stage.digests.values())) != 1:
        raise StepFailed("the same SHA-256 everywhere", stage.digests)


def _since(begin: float) -> str:
    return f"{time.monotonic() - begin:.1f} s"
