"""`fedmarket image`: images of this zone's datastores."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fedmarket.pb.fedmarket.v1.change_pb2 import Delete, Verb
from fedmarket.pb.fedmarket.v1.common_pb2 import Ref
from fedmarket.pb.fedmarket.v1.image_pb2 import (
    CloneImageRequest,
    ImportStart,
    ListImagesRequest,
    ShowImageRequest,
)
from fedmarket.pb.fedmarket.v1.image_pb2_grpc import ImageServiceStub
from fedmarket.pb.fedmarket.v1.record_pb2 import ImageType
from zone_agent.cli.changes import RequestId, ask_change
from zone_agent.cli.client import Client, client_command
from zone_agent.cli.groups import group
from zone_agent.cli.jobs import await_made
from zone_agent.cli.output import column, number, size, time
from zone_agent.cli.session import ref
from zone_agent.cli.upload import upload
from zone_agent.cli.verbs import add_locks, add_verbs

commands = group()

ImageRef = Annotated[str, typer.Argument(metavar="IMAGE", help="Id or name.")]

COLUMNS = (
    number("ID", "id"),
    column("NAME", "name"),
    column("DATASTORE", "datastore"),
    size("SIZE", "size_bytes"),
    column("TYPE", "type"),
    column("FORMAT", "format"),
    time("REGTIME", "registered"),
    column("STAT", "state"),
)


class Kind(Enum):
    """Types of images that a file can be."""

    OS = "os"
    CDROM = "cdrom"
    DATABLOCK = "datablock"


@client_command(commands, "import")
def import_image(
    client: Client,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file or block device of this machine.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the image.")],
    datastore: Annotated[
        str, typer.Option("--datastore", "-d", metavar="DATASTORE", help="Where to keep it: id or name.")
    ],
    kind: Annotated[Kind, typer.Option("--type", help="What the image is.")] = Kind.OS,
) -> None:
    """Send a file from this machine into a datastore of the zone."""
    start = ImportStart(name=name, datastore=ref(datastore), type=ImageType.Value(f"IMAGE_TYPE_{kind.name}"))
    client.out.show(upload(client.session, file, start))


@client_command(commands, "clone")
def clone(
    client: Client,
    image: ImageRef,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the new image.")],
    datastore: Annotated[
        str, typer.Option("--datastore", "-d", metavar="DATASTORE", help="Where to keep it. Without: where IMAGE is.")
    ] = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is ready: print its id.")] = False,
) -> None:
    """Copy an image into a new one."""
    stub = client.session.stub(ImageServiceStub)
    request = CloneImageRequest(image=ref(image), name=name, datastore=ref(datastore) if datastore else None)
    cloned = client.session.call(stub.Clone, request, change=True)
    if not no_wait:
        again = ShowImageRequest(image=Ref(id=cloned.image.id))
        made = await_made(client.session, cloned.job_id, cloned.image, lambda: client.session.call(stub.Show, again))
        client.out.show(made)
    elif client.out.as_json:
        client.out.show(cloned.image, job_id=cloned.job_id)
    else:
        client.out.done(str(cloned.image.id))


@client_command(commands, "list")
def list_images(client: Client) -> None:
    """List the images."""
    stub = client.session.stub(ImageServiceStub)
    pages = client.session.pages(stub.List, lambda page: ListImagesRequest(page=page))
    client.out.table((image for page in pages for image in page.images), COLUMNS)


@client_command(commands, "show")
def show(client: Client, image: ImageRef) -> None:
    """Show an image."""
    stub = client.session.stub(ImageServiceStub)
    client.out.show(client.session.call(stub.Show, ShowImageRequest(image=ref(image))))


@client_command(commands, "delete")
def delete(client: Client, image: ImageRef, request_id: RequestId = None) -> None:
    """Delete an image, and its bytes. Refused while an app is made from it."""
    changed = ask_change(client, "image", image, Verb(delete=Delete()), request_id)
    client.out.done(f"deleted image {changed.id}", id=changed.id)


add_verbs(commands, "image")
add_locks(commands, "image")
