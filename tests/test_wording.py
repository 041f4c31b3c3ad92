"""Numbers and lists in sentences."""

from shared.wording import counted, listed


def test_one_is_singular():
    said = [counted(number, "shard") for number in (0, 1, 2, 1200)]
    assert said == ["0 shards", "1 shard", "2 shards", "1,200 shards"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]


def test_long_lists_are_cut():
    assert listed(["left", "right"]) == "left, right" and listed([]) == "none"
    assert listed(list("abcde"), most=3) == "a, b, c, ..."
