"""Numbers in sentences."""

from shared.wording import counted


def test_one_is_singular():
    said = [counted(number, "shard") for number in (0, 1, 2, 1200)]
    assert said == ["0 shards", "1 shard", "2 shards", "1,200 shards"]
