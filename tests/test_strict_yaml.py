"""YAML that would run something, repeat itself without end, or grow when it is read."""

from __future__ import annotations

import tracemalloc

import pytest

from sbv2bench.errors import InputError
from sbv2bench.strict_yaml import MOST_NODES, read_yaml


def bomb(levels: int = 12) -> str:
    """Nine aliases of the level below on each level."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (bomb(), f"found more than {MOST_NODES:,} values"),
        ("a: &a [*a]", "found an alias of what it is in"),
        ("a: &a {b: *a}", "found an alias of what it is in"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("a: !mine b", "could not determine a constructor for the tag '!mine'"),
        ("? [a, b]\n: c", "found \\['a', 'b'\\] as a key"),
        ("a: 2026-99-99", "month must be in 1..12"),
        ("[" * 5000, "maximum (recursion|nesting) depth"),
        ("a: 1\n---\nb: 2", "but found another document"),
        ("a: \x00", "(special|control) characters are not allowed"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    tracemalloc.start()
    with pytest.raises(InputError, match=f"^file: not YAML .*{says}"):
        read_yaml(text, "file")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_an_honest_alias_is_read() -> None:
    found = read_yaml("base: &base {a: 1}\nlist: [*base, *base]", "file")
    assert found == {"base": {"a": 1}, "list": [{"a": 1}, {"a": 1}]}
