"""Numbers of users and groups: each name keeps its own."""

import pytest

from builder.alpine.numbers import Numbers, checked, installed_numbers
from builder.core.errors import UserError


def test_names_keep_their_numbers_and_new_ones_get_free_ones() -> None:
    kept = Numbers({"gone": 100, "here": 101, "fixed": 851}, {})
    found = Numbers({"here": 100, "new": 101, "newer": 102, "fixed": 900, "own": 950}, {"new": 100})
    numbers = kept.with_new(found)
    assert numbers.users == {
        "gone": 100,
        "here": 101,
        "newer": 102,
        "new": 103,
        "fixed": 851,
        "own": 950,
    }
    assert numbers.groups == {"new": 100}
    assert list(numbers.users.values()) == sorted(numbers.users.values())
    assert kept.changes(numbers) == [
        "user newer has number 102",
        "user new has number 103",
        "user own has number 950",
        "group new has number 100",
    ]
    assert numbers.with_new(found) == numbers, "nothing is new the second time"
    assert numbers.lines().splitlines()[0] == "user:gone:100"


def test_numbers_are_read_where_they_depend_on_packages() -> None:
    passwd = "root:x:0:0::/:/bin/sh\napp:x:100:101::/:/bin/sh\n+::::::\n\nodd\n"
    assert installed_numbers(passwd, "wheel:x:10:root\napp:x:101:\n") == Numbers(
        {"app": 100}, {"app": 101}
    )


@pytest.mark.parametrize(
    ("table", "pattern"),
    [
        ({"one": 100, "two": 100}, "one and two both have the number 100; apk.lock: take out the"),
        ({"one": "100"}, "one has '100', wanted a number"),
        ({"one": 5}, "apk.lock: one has 5, wanted a number from 100 to 2147483647"),
        ({"one": (1 << 32) - 1}, "one has 4294967295, wanted a number"),
        ({"one": True}, "wanted a number"),
    ],
)
def test_a_damaged_table_is_refused(table: dict[str, object], pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        checked(table, "apk.lock")


@pytest.mark.parametrize(
    ("passwd", "pattern"),
    [
        ("boss:x:900:900::/:\ndeputy:x:900:900::/:\n", "boss and deputy both have the number 900"),
        ("l\udce9:x:101:1::/:\n", r"a package has 'l\\udce9' with the number 101 among its users"),
        ("big:x:4294967295:1::/:\n", "'big' with the number 4294967295"),
    ],
)
def test_what_no_table_can_hold_is_refused(passwd: str, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        installed_numbers(passwd, "")
