from __future__ import annotations

from pathlib import Path

import pytest

from nextclick.services.api.catalogue import Catalogue, read_catalogue
from nextclick.services.api.rules import Rules
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import Scorer
from tests.unit.builders import CPU, checkpoint

SCORER = Scorer(checkpoint(6), CPU, top_k=3)


def excluded(rules: Rules, category: str | None = None, scorer: Scorer = SCORER) -> set[str]:
    mask = rules.constraints(scorer, 3, False, category).excluded
    if mask is None:
        return set()
    return {scorer.vocabulary.item_ids[i] for i in mask.nonzero().flatten().tolist()}


def test_no_rule_is_no_mask() -> None:
    assert Rules().constraints(SCORER, 3, False, None).excluded is None


def test_a_category_excludes_all_others() -> None:
    rules = Rules(Catalogue({"a": frozenset({"1", "2", "99"})}))
    assert excluded(rules, "a") == {"3", "4", "5", "6"}


def test_a_category_that_is_gone_meanwhile_holds_nothing() -> None:
    assert excluded(Rules(), "gone") == set("123456")


def test_masks_are_made_once_per_model_and_forgotten_with_it() -> None:
    rules = Rules(Catalogue({"a": frozenset({"1", "3"})}))
    scorer = Scorer(checkpoint(3), CPU, top_k=3)
    assert (
        rules.constraints(scorer, 1, False, "a").excluded
        is rules.constraints(scorer, 2, True, "a").excluded
    )
    assert excluded(rules, "a", scorer) == {"2"}
    assert excluded(rules, "a") == {"2", "4", "5", "6"}
    assert len(rules._masks) == 2
    del scorer
    assert len(rules._masks) == 1


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
