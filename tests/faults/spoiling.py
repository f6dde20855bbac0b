"""Bytes that somebody might have made of a good file: cut, overwritten, put together anew; documents with a value replaced."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from faults.readers import Reader
from hypothesis import strategies as st

NASTY_TEXTS = (
    *("", " ", ".", "..", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "C:\\x", "a\0b", "~root", "~nobody-of-this-name/x"),
    *("\x1b[31mred\x1b]0;title\x07", "\u202egnp.exe", "\u2066x\u2069", "\r\nline", "\u2028", "\ufeff", "\ud800", "🎨" * 3),
    *("%s%n{0}{x}", "<script>alert(1)</script>", "[bold]x[/bold]", "{{7*7}}", "x" * 300, "hub:", "hub:a", "hub:a/b@", "package:"),
    *("package:mini/../..", "asset:", "home:../x", "home:/etc", "os:system", "builtins:eval", ":", "a:b:c", "1e5", "nan", "null"),
)
NASTY: tuple[object, ...] = (
    *NASTY_TEXTS, None, True, False, 0, -1, 2**31, 2**63, 10**400, -0.0, 1e-320, 1e308, float("inf"), float("nan"),
    [], {}, [[]], [None], {"": None}, ["x"] * 50, {"a": {"a": {"a": {}}}},
)  # fmt: skip


def values() -> st.SearchStrategy[object]:
    """Of a document: nasty ones, and any that JSON can say."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    any_value = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    )
    return st.sampled_from(NASTY).map(copy.deepcopy) | any_value


def places(tree: object, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, from its top."""
    found = [above]
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            found += places(value, (*above, key))
    return found


@st.composite
def changed(draw: st.DrawFn, tree: object) -> object:
    """A document with a few of its values replaced, taken out, or joined by others."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(tree)))
        new = draw(values())
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return new
            continue
        holder: Any = tree
        for key in place[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "rename"])):
            case "replace":
                holder[place[-1]] = new
            case "remove":
                del holder[place[-1]]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(NASTY_TEXTS))] = holder.pop(place[-1])
    return tree


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with a few of its bytes changed, taken out or put in, or cut short."""
    spoilt = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(spoilt)))
        stop = min(len(spoilt), start + draw(st.integers(0, 16)))
        match draw(st.sampled_from(["overwrite", "remove", "insert", "cut", "repeat"])):
            case "overwrite":
                spoilt[start:stop] = draw(st.binary(min_size=stop - start, max_size=stop - start))
            case "remove":
                del spoilt[start:stop]
            case "insert":
                spoilt[start:start] = draw(st.binary(max_size=8))
            case "cut":
                del spoilt[start:]
            case "repeat":
                spoilt[start:start] = spoilt[start:stop] * draw(st.integers(1, 5))
    return bytes(spoilt)


def spoilt(reader: Reader) -> st.SearchStrategy[bytes]:
    """What a reader is shown instead of a good file."""
    good = reader.good()
    kinds = damaged(good) | st.binary(max_size=64)
    if reader.dumps is None:
        return kinds
    dumps, tree = reader.dumps, yaml.safe_load(good) if good[:1] != b"{" else json.loads(good)
    return changed(tree).map(lambda document: _text(dumps, document)) | kinds


def _text(dumps: Any, document: object) -> bytes:
    try:
        return bytes(dumps(document).encode("utf-8", "surrogatepass"))
    except (yaml.YAMLError, UnicodeEncodeError, ValueError):
        return repr(document).encode("utf-8", "surrogatepass")
