"""The READMEs: every command in them parses, and every file and heading that they link to exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import reference_trainer.__main__ as trainer
import sbv2bench.cli as suite

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "sbv2bench/README.md", "reference_trainer/README.md", "leaderboards/README.md")
_START = r"(?:[A-Z_\d]+=\S+ )*(?:torchrun .*-m |accelerate .*-m |python -m )?(sbv2bench|reference_trainer) (?!\[|--install)"


def commands(text: str) -> list[str]:
    """Commands of sbv2bench and of the trainer in blocks of bash and in the running text, without remarks."""
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.replace("\\\n", " ").splitlines()
    ]
    spoken = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines += [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", spoken) if " " in found]
    parts = [part.strip() for line in lines for part in re.split(r"&&|;", re.sub(r"\s+# .*|\[key=value \.\.\.\]", "", line))]
    return [part for part in parts if re.match(_START, part) and "|" not in part]


@pytest.mark.parametrize("readme", READMES)
def test_every_command_parses(readme: str) -> None:
    found = commands((ROOT / readme).read_text("utf-8"))
    assert len(found) >= 4
    for line in found:
        program = re.match(_START, line)
        assert program is not None
        command = typer.main.get_command({"sbv2bench": suite.app, "reference_trainer": trainer.app}[program[1]])
        words = shlex.split(line[program.end() :])
        # letters that stand for a number
        words = ["1" if len(word) == 1 and word in "GNS" else word for word in words]
        while hasattr(command, "commands"):
            assert words and words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        if words:  # a bare name of a command is how people speak of it
            command.make_context(line, words)


def anchor(heading: str) -> str:
    """A heading's name in a link, as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("readme", READMES)
def test_every_link_leads_somewhere(readme: str) -> None:
    path = ROOT / readme
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")) if not target.startswith("http")]
    assert targets
    for target in targets:
        name, _, place = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if place:
            assert place in map(anchor, re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)), target


def test_the_files_that_a_contributor_is_sent_to_exist() -> None:
    text = (ROOT / "README.md").read_text("utf-8").partition("## Contributing")[2].partition("## More")[0]
    folders = (ROOT, ROOT / "sbv2bench", ROOT / "sbv2bench" / "evaluation", ROOT / "reference_trainer" / "terms")
    named = [name for name in re.findall(r"`([\w./*-]+)`", text) if "/" in name or name.endswith((".py", ".yaml"))]
    assert len(named) > 10
    for name in named:
        if "*" not in name:
            assert any((folder / name).exists() for folder in folders), name
