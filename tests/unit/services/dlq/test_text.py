from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.dlq import dead_letters, text
from nextclick.shared.messages import Message

SPOOF = b"\x1b[2J\x1b]0;owned\x07\r\nreason    fine\n\xe2\x80\xae\xc2\x9b31m\x7f"
hostile = st.binary(max_size=40) | st.text(max_size=20).map(lambda t: t.encode("utf-8", "replace"))
hostile |= st.just(SPOOF)


@given(raw=hostile | st.text(max_size=20))
def test_no_control_character_is_left(raw: bytes | str) -> None:
    assert text.printable(raw).isprintable()


@given(plain=st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"])))
def test_what_is_printable_stays_as_it_is(plain: str) -> None:
    assert text.printable(plain) == text.printable(plain.encode()) == plain


def test_a_raw_control_character_can_be_told_from_one_that_json_escapes() -> None:
    assert text.printable(b'"\x1b \\u001b"') == r'"\x1b \u001b"'


@given(
    names=st.lists(st.text(max_size=8) | st.sampled_from(["error", "topic", "error_class"])),
    raw=hostile,
    key=st.none() | hostile,
)
def test_no_letter_can_forge_a_line(names: list[str], raw: bytes, key: bytes | None) -> None:
    message = Message("dlq", 0, 17, key, raw, tuple((name, raw) for name in names))
    dead_letter = dead_letters.read(message)
    lines = text.page(dead_letter).split("\n")
    assert all(line.isprintable() for line in lines)
    labels = ["position", "reason", "error", "from", "time", "redriven", "key", "bytes", "headers"]
    assert [line.split(" ")[0] for line in lines if not line.startswith("  ")] == [*labels, "value"]
    assert lines[len(labels) + len(names)] == "value"
    assert all(str(cell).isprintable() for cell in text.row(dead_letter).values())


def test_a_value_that_is_no_text_is_shown_in_hexadecimal() -> None:
    value = bytes(range(256))
    page = text.page(dead_letters.read(Message("dlq", 0, 0, None, value)))
    shown = page.split("value\n")[1].splitlines()
    assert shown[1].startswith("  000010  10 11 12")
    assert b"".join(bytes.fromhex(line[10:]) for line in shown) == value


def test_a_page_says_everything() -> None:
    headers = (
        ("topic", b"clicks"), ("partition", b"3"), ("offset", b"7"), ("error_class", b"invalid"),
        ("error", b"timestamp: missing"), ("time", b"1700000000000"), ("original_bytes", b"99"),
    )  # fmt: skip
    dead_letter = dead_letters.read(Message("dlq", 0, 17, b"alice", b'{"a": 1,\n "a": 2}', headers))
    assert text.page(dead_letter).splitlines() == [
        "position  0/17",
        "reason    invalid",
        "error     timestamp: missing",
        "from      clicks/3/7",
        "time      2023-11-14T22:13:20Z",
        "redriven  0",
        "key       alice",
        "bytes     17 (cut)",
        "headers",
        *(f"  {name}: {value.decode()}" for name, value in headers),
        "value",
        '  {"a": 1,',
        '   "a": 2}',
    ]
    assert text.row(dead_letter) == {
        "position": "0/17", "time": "2023-11-14T22:13:20Z", "reason": "invalid",
        "error": "timestamp: missing", "from": "clicks/3/7",
        "key": "alice", "bytes": 17, "redriven": 0, "preview": r'{"a": 1,\n "a": 2}',
    }  # fmt: skip


def test_what_a_letter_lacks_is_none() -> None:
    dead_letter = dead_letters.read(Message("dlq", 0, 0, None, None))
    row = text.row(dead_letter)
    assert (row["time"], row["key"], row["bytes"], row["preview"]) == (None, None, 0, "")
    assert "(none)" in text.page(dead_letter)
    assert "(empty)" in text.page(dead_letters.read(Message("dlq", 0, 0, None, b"")))


def test_long_cells_are_cut_to_their_width() -> None:
    dead_letter = dead_letters.read(Message("dlq", 0, 0, "é".encode() * 25, b"x" * 60))
    assert text.row(dead_letter)["key"] == "é" * 23 + "…"
    assert text.row(dead_letter)["preview"] == "x" * 60
    dead_letter = dead_letters.read(Message("dlq", 0, 0, "😀".encode() * 25, b"x" * 100_000))
    assert text.row(dead_letter)["key"] == "😀" * 23 + "…"
    assert text.row(dead_letter)["preview"] == "x" * 59 + "…"
