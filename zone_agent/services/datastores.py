"""Datastores: named places for images, which zone.toml gives."""

import logging
import time
from collections.abc import Sequence

from drivers.capabilities import Sized, Usage
from federation.draft import Draft
from federation.records import Record
from federation.view import Found
from fedmarket.errors import FedmarketError, Refused
from fedmarket.pb.fedmarket.v1.record_pb2 import (
    DATASTORE_STATE_DISABLED,
    DATASTORE_STATE_READY,
    DATASTORE_TYPE_IMAGE,
    DatastoreRecord,
    ImageRecord,
)
from fedmarket.threads import in_thread
from zone_agent.config import DatastoreSettings
from zone_agent.services.catalogs import Catalogs
from zone_agent.services.principal import Principal
from zone_agent.stores import Stores, template_of

log = logging.getLogger(__name__)


class DatastoreService:
    """The use cases of datastores, which zone.toml names."""

    def __init__(self, catalogs: Catalogs, stores: Stores) -> None:
        self._catalogs = catalogs
        self._view = catalogs.view
        self._stores = stores

    def list(self) -> Sequence[Found[DatastoreRecord]]:
        """Return every datastore of this zone."""
        return self._view.page(DatastoreRecord, -1, 1_000_000)

    def show(self, ref: int | str) -> Found[DatastoreRecord]:
        """Return one datastore. Raises NotFound."""
        return self._view.resolve(DatastoreRecord, ref)

    def images(self, datastore_id: int) -> int:
        """Return how many images a datastore holds."""
        return len(self._view.children(ImageRecord, datastore_id))

    async def usage(self, datastore: Found[DatastoreRecord]) -> Usage | None:
        """Measure its space; None if that cannot be told now."""
        store = self._stores.datastore(datastore)
        if not isinstance(store, Sized):
            return None
        try:
            return await in_thread(store.usage)
        except FedmarketError as error:
            log.warning("the space of datastore %s cannot be measured: %s", datastore.message.name, error.message)
            return None

    async def reconcile(self, wanted: Sequence[DatastoreSettings], admin: Principal) -> None:
        """Bring the records in step with zone.toml: new ones are added, those that are gone are DISABLED."""
        await self._catalogs.change(lambda draft: self._reconcile(draft, wanted, admin), private=True)

    def _reconcile(self, draft: Draft, wanted: Sequence[DatastoreSettings], admin: Principal) -> None:
        names = {settings.name for settings in wanted}
        for found in self.list():
            record = draft.get(DatastoreRecord, found.id)
            if record is None or record.message.name in names or record.message.state == DATASTORE_STATE_DISABLED:
                continue
            record.message.state = DATASTORE_STATE_DISABLED
            _put(draft, found.id, record)
        for settings in wanted:
            template = template_of({"BASE_PATH": str(settings.path)})
            known = draft.named(DatastoreRecord, settings.name)
            if not known:
                message = DatastoreRecord(
                    name=settings.name,
                    owner=admin.owner(),
                    mode=0o640,
                    state=DATASTORE_STATE_READY,
                    driver=settings.driver,
                    type=DATASTORE_TYPE_IMAGE,
                    template=template,
                    register_time=int(time.time()),
                )
                draft.create(message)
                continue
            datastore_id, record = known[0]
            before = record.message.SerializeToString()
            record.message.state, record.message.driver = DATASTORE_STATE_READY, settings.driver
            del record.message.template.attributes[:]
            record.message.template.attributes.extend(template.attributes)
            if record.message.SerializeToString() != before:
                _put(draft, datastore_id, record)


def _put(draft: Draft, datastore_id: int, record: Record[DatastoreRecord]) -> None:
    """Write a record; one that only a newer version may change keeps the rest not from being brought in step."""
    try:
        draft.put(datastore_id, record)
    except Refused as error:
        log.error("datastore %s is left as it is: %s", record.message.name, error.message)
