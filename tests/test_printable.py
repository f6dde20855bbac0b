"""Text that came from outside acts on no terminal and no page: in errors, in tables, in lines and in HTML."""

from __future__ import annotations

import io
import sys

import pytest
from sample_page import content
from sample_results import sample_result

from sbv2bench.errors import InputError
from sbv2bench.printable import printable
from sbv2bench.report import terminal
from sbv2bench.report.page import page
from sbv2bench.report.result import print_result
from sbv2bench.shell import Shell

NASTY = "a\x1b[31mred\x1b]0;title\x07\r\u202egnp.exe\u2066\x9b2J\u2028\ud800"
ACTING = ("\x1b", "\x07", "\r", "\u202e", "\u2066", "\x9b", "\u2028", "\ud800")


def test_what_acts_is_written_as_its_code_and_all_else_stays() -> None:
    assert printable("\x1b[1m\u202e\r\ud800") == "\\x1b[1m\\u202e\\r\\ud800"
    kept = "tab\tline\n é 漢字 🎨 👩\u200d🎨 می\u200cخواهم [bold]<b>"
    assert printable(kept) == kept


def test_an_error_with_such_names_is_at_most_three_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    app = typer.Typer(cls=Shell, pretty_exceptions_enable=False)

    @app.command()
    def refuse() -> None:
        raise InputError(f"model {NASTY} {'x' * 100_000}\nsecond", fix=NASTY)

    @app.callback()
    def main() -> None:
        pass

    with pytest.raises(SystemExit) as stop:
        app(["refuse"], prog_name="x")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 3 and len(err) < 5000
    assert not any(sign in err for sign in ACTING)


@pytest.mark.parametrize("terminal_width", [None, 80])
def test_tables_and_lines(monkeypatch: pytest.MonkeyPatch, terminal_width: int | None) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    if terminal_width:
        monkeypatch.setenv("FORCE_COLOR", "1")
    console = terminal.stdout_console()
    result = sample_result()
    marked = result.metrics["fid"].model_copy(update={"label": NASTY, "unit": NASTY, "uncertainty": NASTY})
    result = result.model_copy(update={"metrics": {"fid": marked}, "model": result.model.model_copy(update={"id": f"x/{NASTY}"})})
    print_result(console, result, None, console)
    terminal.say(console, NASTY)
    shown = out.getvalue()
    assert "gnp.exe" in shown
    assert not any(sign in shown for sign in ACTING[1:])
    assert "\x1b[31mred" not in shown and "\x1b]0" not in shown  # of rich's own colours there may be some


def test_a_page_and_its_plots() -> None:
    """Vega's renderer aborts the process over a control character, so it must be shown none."""
    shown = page(content(NASTY.removesuffix("\ud800")))
    assert "a\\x1b[31mred" in shown and "\\u202egnp.exe" in shown
    assert not any(sign in shown for sign in ACTING)
