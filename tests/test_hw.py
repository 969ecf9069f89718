from pathlib import Path

import pytest

import hw.board
from hw.board import Pin, load, parse

TEXT = (Path(hw.board.__file__).parent / "boards" / "line-tap-1.toml").read_text(encoding="utf-8")


def test_the_line_tap_board() -> None:
    board = load("line-tap-1")
    assert board.name == "line-tap-1"
    (line,) = board.line
    assert line.off_hook == Pin(gpio=5, active="low")
    assert line.line_present == Pin(gpio=6, active="high")
    assert line.ring == Pin(gpio=12, active="high")
    assert line.polarity == Pin(gpio=13, active="high")
    assert (board.panel.green_led.gpio, board.panel.red_led.gpio, board.panel.button.gpio) == (22, 23, 24)
    assert board.levels.dc_tap_mv_per_v.value == 19.7
    assert board.levels.audio_gain_db.known == "ngspice"


def test_an_unknown_board_is_one_sentence_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^There is no board '../x'; known boards: line-tap-1, line-tap-2\.$"):
        load("../x")


def test_a_board_may_lack_all_but_the_off_hook_comparator() -> None:
    lines = [row for row in TEXT.splitlines() if not row.startswith(("ring =", "polarity =", "line_present ="))]
    (line,) = parse("\n".join(lines), "b.toml").line
    assert (line.ring, line.polarity, line.line_present) == (None, None, None)


def test_a_second_line_is_a_second_entry() -> None:
    assert len(parse(TEXT + '[[line]]\noff_hook = { gpio = 16, active = "low" }\n', "b.toml").line) == 2


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("gpio = 5", "gpio = 2", "b.toml: gpio = 2 is not free for a line tap; use 4 to 13, 16, 17 or 22 to 27."),
        ("gpio = 5", "gpio = 28", "b.toml: gpio = 28 is not free for a line tap; use 4 to 13, 16, 17 or 22 to 27."),
        ("gpio = 5", "gpio = 6", "b.toml: gpio = 6 is used twice."),
        ("gpio = 5", "gpio = true", "b.toml: line 1: off_hook: gpio = True must be of type int."),
        ('active = "low" }', 'active = "lo" }', "b.toml: panel: button: active = 'lo' is not one of: high, low."),
        ("off_hook =", "offhook =", "b.toml: line 1: has no key 'offhook'; known are: off_hook, line_present"),
        ("off_hook =", "# ", "b.toml: line 1: lacks the key 'off_hook'."),
        ("[[line]]", "[line]", "b.toml: line: must be a list of tables."),
        ("value = 19.7", 'value = "19.7"', "b.toml: levels: dc_tap_mv_per_v: value = '19.7' must be of type float."),
        ("[panel]", "panel = 1\n[other]", "b.toml: has no key 'other'"),
        ('name = "line-tap-1"', "name =", "b.toml: is not TOML"),
    ],
)
def test_a_mistake_in_a_board_file_is_one_sentence(old: str, new: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(TEXT.replace(old, new, 1), "b.toml")
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(".")


def test_a_board_needs_a_line() -> None:
    head = TEXT[: TEXT.index("[[line]]")] + TEXT[TEXT.index("[levels]") :]
    with pytest.raises(ValueError, match="a board has one"):
        parse("line = []\n" + head, "b.toml")


def test_the_board_of_two_lines_is_the_one_of_one_with_another_line() -> None:
    one, two = load("line-tap-1"), load("line-tap-2")
    assert (two.line[:1], two.panel, two.levels) == (one.line, one.panel, one.levels) and len(two.line) == 2


def test_the_wiring_page_agrees_with_the_board() -> None:
    page = (Path(hw.board.__file__).parent / "WIRING.md").read_text(encoding="utf-8")
    board = load("line-tap-1")
    for pin in hw.board._pins(board):
        assert any(row.startswith(f"| {pin.gpio} |") and f"| {pin.active} |" in row for row in page.splitlines()), pin
