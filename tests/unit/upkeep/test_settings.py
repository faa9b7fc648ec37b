"""What is set for an embedded etcd's database holds for that one, and is no setting of any other."""

from pathlib import Path

import pytest

from fedmarket.errors import ConfigError
from zone_agent.config import load

ELSEWHERE = 'embedded = false\nendpoints = ["127.0.0.1:2379"]\n'


def zone_toml(directory: Path, etcd: str) -> Path:
    file = directory / "zone.toml"
    file.write_text(f'[zone]\nid = 1\nname = "one"\n[etcd]\n{etcd}')
    return file


def test_an_embedded_etcd_has_a_quota_and_an_hour_of_history_unless_told_otherwise(tmp_path: Path) -> None:
    usual = load(zone_toml(tmp_path, ""))
    told = load(zone_toml(tmp_path, "quota_mb = 64\ncompaction_seconds = 60\n"))
    assert (usual.etcd.quota_mb, usual.etcd.compaction_seconds) == (2048, 3600)
    assert (told.etcd.quota_mb, told.etcd.compaction_seconds) == (64, 60)
    assert (usual.upkeep.lost_days, usual.upkeep.requests_days, usual.timeouts.upkeep_seconds) == (30, 7, 3600)


@pytest.mark.parametrize("setting", ["quota_mb = 64", "compaction_seconds = 60"])
def test_an_etcd_elsewhere_has_its_own_settings(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"line 7: \[etcd\] {setting.split(maxsplit=1)[0]} is for an embedded etcd"):
        load(zone_toml(tmp_path, f"{ELSEWHERE}{setting}\n"))
    load(zone_toml(tmp_path, ELSEWHERE))


@pytest.mark.parametrize("setting", ["quota_mb = 15", "quota_mb = 8193", "compaction_seconds = 59"])
def test_out_of_bounds_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        load(zone_toml(tmp_path, setting))
