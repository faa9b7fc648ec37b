"""`fedmarket app`: marketplace apps of all zones."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fedmarket.errors import BadInput
from fedmarket.pb.fedmarket.v1.app_pb2 import (
    App,
    CreateAppRequest,
    ExportAppRequest,
    FetchAppRequest,
    ListAppsRequest,
    ShowAppRequest,
)
from fedmarket.pb.fedmarket.v1.app_pb2_grpc import AppServiceStub
from fedmarket.pb.fedmarket.v1.change_pb2 import Delete, Verb
from fedmarket.pb.fedmarket.v1.common_pb2 import Ref
from fedmarket.pb.fedmarket.v1.image_pb2 import Image, ShowImageRequest
from fedmarket.pb.fedmarket.v1.image_pb2_grpc import ImageServiceStub
from fedmarket.units import human_size
from zone_agent.cli.changes import RequestId, ask_change
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.download import download_to_file, download_to_stdout
from zone_agent.cli.groups import group
from zone_agent.cli.jobs import await_made, require_done, watch_job
from zone_agent.cli.output import column, number, size, time
from zone_agent.cli.progress import progress
from zone_agent.cli.session import ref
from zone_agent.cli.verbs import add_locks, add_verbs

commands = group()

STDOUT = "-"

AppRef = Annotated[str, typer.Argument(metavar="APP", help="Id, name, or name@zone.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is ready: print its id at once.")]

COLUMNS = (
    number("ID", "id"),
    column("NAME", "name"),
    column("VERSION", "version"),
    size("SIZE", "size_bytes"),
    column("TYPE", "type"),
    time("REGTIME", "registered"),
    column("MARKET", "market"),
    column("ZONE", "zone"),
    column("STAT", "state"),
)


class Format(Enum):
    """Formats of exported images."""

    RAW = "raw"
    QCOW2 = "qcow2"


@client_command(commands, "create")
def create(
    client: Client,
    image: Annotated[str, typer.Option("--image", "-i", metavar="IMAGE", help="Image of this zone: id or name.")],
    market: Annotated[str, typer.Option("--market", "-m", metavar="MARKET", help="Market of this zone: id or name.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the app.")],
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is.")] = "",
    version: Annotated[str, typer.Option("--version", metavar="TEXT", help="Which version of it.")] = "",
    no_wait: NoWait = False,
) -> None:
    """Make an app from an image, in a market of this zone."""
    stub = client.session.stub(AppServiceStub)
    request = CreateAppRequest(
        name=name, image=ref(image), market=ref(market), description=description, version=version
    )
    created = client.session.call(stub.Create, request, change=True)
    if no_wait:
        _print_started(client, created.app, created.job_id)
        return
    again = ShowAppRequest(app=Ref(id=created.app.id))
    made = await_made(client.session, created.job_id, created.app, lambda: client.session.call(stub.Show, again))
    client.out.show(made)


@client_command(commands, "list")
def list_apps(
    client: Client,
    market: Annotated[
        str | None,
        typer.Option("--market", "-m", metavar="MARKET", help="Only of this market: id, name, or name@zone."),
    ] = None,
) -> None:
    """List the apps of all zones."""
    stub = client.session.stub(AppServiceStub)
    of = None if market is None else ref(market)
    pages = client.session.pages(stub.List, lambda page: ListAppsRequest(page=page, market=of))
    client.out.table((app for page in pages for app in page.apps), COLUMNS)


@client_command(commands, "show")
def show(client: Client, app: AppRef) -> None:
    """Show an app."""
    stub = client.session.stub(AppServiceStub)
    client.out.show(client.session.call(stub.Show, ShowAppRequest(app=ref(app))))


@client_command(commands, "delete")
def delete(client: Client, app: AppRef, request_id: RequestId = None) -> None:
    """Delete an app, and its bytes."""
    changed = ask_change(client, "app", app, Verb(delete=Delete()), request_id)
    client.out.done(f"deleted app {changed.id}", id=changed.id)


@client_command(commands, "download")
def download(
    client: Client,
    app: AppRef,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - is stdout.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    to_agent: Annotated[
        str,
        typer.Option("--to-agent", metavar="NAME", help="In place of FILE: a file in the agent's own directory."),
    ] = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="With --to-agent: do not wait until it is there.")] = False,
) -> None:
    """Fetch an app's bytes into a file of this machine. It appears when it is whole and its SHA-256 was checked.

    With --to-agent, the agent fetches them into its directory of downloads ([jobs] in zone.toml), as a job.
    """
    if bool(file) is bool(to_agent):
        raise BadInput("a download goes to one place: give FILE, or --to-agent NAME")
    if to_agent:
        _download_to_agent(client, app, to_agent, no_wait=no_wait)
        return
    if file == STDOUT:
        if client.out.as_json:
            raise BadInput("--json and FILE - both want stdout: give a file name, or leave --json out")
        download_to_stdout(client.session, ref(app))
        return
    fetched = download_to_file(client.session, ref(app), Path(file), overwrite=force)
    if client.out.as_json:
        client.out.show(fetched, path=file)
    else:
        client.out.done(f"{file}: {human_size(fetched.size_bytes)}, SHA-256 {fetched.sha256} checked")


@client_command(commands, "export")
def export(
    client: Client,
    app: AppRef,
    datastore: Annotated[
        str, typer.Option("--datastore", "-d", metavar="DATASTORE", help="Where to keep it: id or name.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the image.")],
    to_format: Annotated[Format | None, typer.Option("--format", help="Convert it to this.")] = None,
    no_wait: NoWait = False,
) -> None:
    """Bring an app of any zone into a datastore of this zone, as an image."""
    stub = client.session.stub(AppServiceStub)
    request = ExportAppRequest(
        app=ref(app), datastore=ref(datastore), name=name, format=to_format.value if to_format else ""
    )
    exported = client.session.call(stub.Export, request, change=True)
    if no_wait:
        _print_started(client, exported.image, exported.job_id)
        return
    images = client.session.stub(ImageServiceStub)
    again = ShowImageRequest(image=Ref(id=exported.image.id))
    made = await_made(client.session, exported.job_id, exported.image, lambda: client.session.call(images.Show, again))
    client.out.show(made)


def _print_started(client: Client, made: App | Image, job_id: str) -> None:
    if client.out.as_json:
        client.out.show(made, job_id=job_id)
    else:
        client.out.done(str(made.id))


def _download_to_agent(client: Client, app: str, name: str, *, no_wait: bool) -> None:
    stub = client.session.stub(AppServiceStub)
    started = client.session.call(stub.Fetch, FetchAppRequest(app=ref(app), file=name), change=True)
    if not no_wait:
        with progress("waiting") as report:
            job = watch_job(
                client.session, started.job_id, lambda job: report(job.done_bytes, job.total_bytes, job.phase)
            )
        require_done(job)
    client.out.done(started.path, path=started.path, job_id=started.job_id)


add_verbs(commands, "app")
add_locks(commands, "app")
