"""YAML as catalogs and recipes are written: safe, and no key twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from sbv2bench.errors import InputError

MOST_NODES = 100_000  # values of a document with its aliases written out: the largest catalog has 5,000


if TYPE_CHECKING:
    from yaml import SafeLoader
else:
    SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same parser in C, twenty times as fast


class _StrictLoader(SafeLoader):
    """Safe YAML that refuses a key written twice, where PyYAML would keep the last one without a word, and endless aliases."""

    def get_single_node(self) -> yaml.Node | None:
        """As in PyYAML; raises ComposerError for a document that its aliases make larger than MOST_NODES, or endless."""
        node: yaml.Node | None = super().get_single_node()  # type: ignore[no-untyped-call]
        if node is not None:
            _written_out(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """As in PyYAML, but for the refusal."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, f"found {key!r} as a key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _written_out(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node has with all aliases written out. known: of nodes by id, None while one is being counted."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise yaml.composer.ComposerError(None, None, "found an alias of what it is in", node.start_mark)
        return size
    known[id(node)] = None
    inner = [] if isinstance(node, yaml.ScalarNode) else node.value
    parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
    known[id(node)] = size = 1 + sum(_written_out(part, known) for part in parts)
    if size > MOST_NODES:
        raise yaml.composer.ComposerError(None, None, f"found more than {MOST_NODES:,} values", node.start_mark)
    return size


def read_yaml(text: str, where: str) -> object:
    """What a text says. where: what an error begins with. Raises InputError, with the line, for what cannot be read."""
    try:
        return yaml.load(text, _StrictLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark is not None and "\n" in text.strip() else ""
        why = " ".join(str(error.problem or error).split())
        raise InputError(f"{where}: not YAML ({line}{why:.200})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates that are none, tags, depth
        raise InputError(f"{where}: not YAML ({' '.join(str(error).split()):.200})") from error
