from __future__ import annotations

from pathlib import Path

import pytest

from nextclick.services.api.catalogue import Catalogue, read_catalogue
from nextclick.services.api.rules import MergedAttributes, Rules, only_category
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.items import NOTHING_KNOWN, UNKNOWN, Attributes
from nextclick.shared.profiles import Profile


def test_categories_are_those_of_the_topic_else_those_of_the_file() -> None:
    rules = Rules(Catalogue({"a": frozenset({"1", "2"}), "b": frozenset({"2"})}))
    topic = NOTHING_KNOWN.changed({"1": Attributes(("c",)), "2": Attributes(price=3.0)})
    merged = MergedAttributes()
    first = merged.merged(rules, topic)
    assert first.get("1") == Attributes(("c",))
    assert first.get("2") == Attributes(("a", "b"), price=3.0)
    assert first.get("3") == UNKNOWN
    assert merged.merged(rules, topic) is first
    assert merged.merged(rules, topic.changed({"1": UNKNOWN})).get("1") == Attributes(("a",))
    without = merged.merged(Rules(), topic)
    assert [without.get(i) for i in "12"] == [topic.get(i) for i in "12"]


def test_a_category_is_one_profile() -> None:
    assert only_category("a") is only_category("a")
    assert only_category("a") == Profile(categories=["a"])


def csv(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "catalogue.csv"
    path.write_bytes(content)
    return path


def test_a_catalogue_may_have_other_columns_and_items_on_several_lines(tmp_path: Path) -> None:
    path = csv(tmp_path, '\ufefftitle,item_id,category\nA,1,x\n"B, c",2,ü\nA,1,ü\n'.encode())
    catalogue = read_catalogue(path)
    assert catalogue.categories == {"x": {"1"}, "ü": {"1", "2"}}
    assert catalogue.titles == {"1": "A", "2": "B, c"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no column item_id"),
        (b"item_id;category\n1;x\n", "no column item_id"),
        (b"item_id,kind\n1,x\n", "no column category"),
        (b"item_id,category\n1,x\n2\n", "line 3"),
        (b"item_id,category\n,x\n", "line 2"),
        (b"item_id,category\n1,\xff\n", "UTF-8"),
        ("item_id,category\n1,x\n".encode("utf-16"), "UTF-8"),
    ],
    ids=["empty", "semicolons", "kind", "short line", "no item", "latin-1", "utf-16"],
)
def test_a_broken_catalogue_is_refused_with_its_line(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read_catalogue(csv(tmp_path, content))


def test_a_missing_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_catalogue(tmp_path / "none.csv")
