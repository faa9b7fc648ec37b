"""What zone.toml says: the settings, their reading, their checks and their texts, each in a module of its own."""

from zone_agent.config.load import load
from zone_agent.config.schema import (
    AuthSettings,
    Config,
    DatastoreSettings,
    EtcdSettings,
    GrpcSettings,
    HttpSettings,
    PeerSettings,
    PeerZone,
    Timeouts,
    UpkeepSettings,
    ZoneSettings,
)

__all__ = [
    "AuthSettings",
    "Config",
    "DatastoreSettings",
    "EtcdSettings",
    "GrpcSettings",
    "HttpSettings",
    "PeerSettings",
    "PeerZone",
    "Timeouts",
    "UpkeepSettings",
    "ZoneSettings",
    "load",
]
