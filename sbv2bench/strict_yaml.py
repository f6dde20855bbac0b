"""YAML as catalogs and recipes are written: safe, and no key twice."""

from __future__ import annotations

import yaml

from sbv2bench.errors import InputError


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, where PyYAML would keep the last one without a word."""

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
