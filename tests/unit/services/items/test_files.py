from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextclick.services.items.files import read_item_files
from nextclick.shared.data_problems import Problems
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.schemas import Item


def read(path: Path) -> tuple[dict[str, Item], list[str]]:
    problems = Problems()
    return read_item_files([str(path)], problems), [str(p) for p in problems.listed()]


def test_a_table_packed_and_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "items.csv.gz"
    path.write_bytes(
        gzip.compress(
            b"sku;title;categories;price;available;color\n"
            b'1;"Bowl; large";dogs|bowls;12.5;no;blue\n'
            b"2;Leash;;;;\n"
        )
    )
    items, problems = read(path)
    bowl = Item(
        item_id="1",
        title="Bowl; large",
        categories=["dogs", "bowls"],
        price=12.5,
        available=False,
        color="blue",
    )
    assert items == {"1": bowl, "2": Item(item_id="2", title="Leash")}
    assert problems == []


def test_the_catalogue_of_the_http_service_is_one_of_items(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text("item_id,category,title\n1,dogs,Bowl\n1,sale,Bowl\n2,dogs,Leash\n")
    items, _ = read(path)
    assert items["1"] == Item(item_id="1", categories=["dogs", "sale"], title="Bowl")
    assert items["2"].categories == ["dogs"]


def test_json_lines_with_what_is_wrong_left_out(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(
        '{"item_id": 1, "tags": ["new"], "sizes": {"s": 3}}\n'
        '{"item_id": "2", "price": "cheap"}\n'
        '{"title": "no id"}\n'
        "no json\n"
        '{"item_id": "3", "text": "' + "t" * 20_000 + '"}\n'
        '{"item_id": "1", "title": "the last one counts"}\n'
    )
    items, problems = read(path)
    assert items == {"1": Item(item_id="1", title="the last one counts")}
    text = "\n".join(problems)
    for complaint in ("line 2", "price", "line 3", "empty item id", "not JSON", "at most 16384"):
        assert complaint in text


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    table = {
        "product_id": [1, 2],
        "categories": [["dogs"], None],
        "price": [Decimal("12.50"), None],
        "available": [True, False],
    }
    pq.write_table(pa.table(table), path)
    items, problems = read(path)
    assert items["1"] == Item(item_id="1", categories=["dogs"], price=12.5, available=True)
    assert items["2"] == Item(item_id="2", available=False)
    assert problems == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "empty"), (b"name,price\na,1\n", "no column item_id"), (b"PAR1oops", "Parquet")],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=complaint):
        read(path)
