"""What a person sees, in a wide window and in a narrow one."""

from __future__ import annotations

import pytest
from rich.console import Console

from mad import terminal
from mad.config import Option

OPTIONS = [
    Option("task", "adversarial|backdoor|corpus|natural_mechanisms|quirky|tampering|text_backdoor", "backdoor", "rows"),
    Option("train.epochs", "int", 20, "passes over the training rows, 1 or more, [each] of them whole and in an order"),
    Option("json", "str | null", None, "also write the result to this file"),
]


@pytest.fixture
def window(monkeypatch):
    def open_window(width: int) -> None:
        monkeypatch.setattr(terminal, "out", Console(highlight=False, soft_wrap=False, width=width))

    return open_window


@pytest.mark.parametrize("width", [60, 80, 200])
def test_options_show_name_type_default_and_meaning_in_any_window(window, width, capsys):
    window(width)
    terminal.options_help("mad train", "train a [model]", [("Settings [of it]", OPTIONS)])
    said = capsys.readouterr().out
    words = " ".join(said.split())
    assert all(len(line) <= width for line in said.splitlines())
    assert "train a [model]" in said and "Settings [of it]" in said
    for option in OPTIONS:
        assert f"--{option.name} " in said
    if width < terminal.WIDE:
        assert "--train.epochs int (default: 20) passes over the training rows, 1 or more, [each] of them" in words
        assert "--json str | null also write the result" in words
    assert "natural_mechanisms" in said and "(default: None)" not in said


def test_a_table_keeps_its_first_column_in_one_piece(window, capsys):
    window(30)
    terminal.table("[title]", ("figure", "value"), [("a_rather_long_name", 0.123456), ("b", float("nan"))], ("value",))
    said = capsys.readouterr().out
    assert "a_rather_long_name" in said and "0.1235" in said and said.splitlines()[-1].split() == ["b", "-"]
