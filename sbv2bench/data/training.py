"""What a model was trained with, as it says itself: its spec, the sbv2bench.json of its folder, or the ends of its merge."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sbv2bench.data.assets import read_json
from sbv2bench.data.chain import chain
from sbv2bench.errors import IntegrityError
from sbv2bench.specs import ModelSpec, TrainedWith


def trained_with(spec: ModelSpec, find: Callable[[str], ModelSpec]) -> TrainedWith | None:
    """None where nobody has said. find: the model that an end of a merge names.

    Raises what `chain` and find raise, and IntegrityError where a folder's sbv2bench.json says something else than what can be.
    """
    if spec.trained_with is not None:
        return spec.trained_with
    if spec.merge is not None:
        return united(trained_with(find(end), find) for end in (spec.merge.a, spec.merge.b))
    if not (spec.location and spec.has_network()):
        return None
    own = chain(spec)[0].folder / "sbv2bench.json"
    said = read_json(own).get("trained_with") if own.is_file() else None
    try:
        return None if said is None else TrainedWith.model_validate(said)
    except ValueError as error:
        raise IntegrityError(f"{own}: trained_with: found {said!r:.80}, expected losses, scorers and prompts") from error


def united(parts: Iterable[TrainedWith | None]) -> TrainedWith | None:
    """All of them together, each thing once; None where all are None."""
    said = [part for part in parts if part is not None]
    if not said:
        return None
    fields = TrainedWith.model_fields
    return TrainedWith.model_validate(
        {name: [*dict.fromkeys(one for part in said for one in getattr(part, name))] for name in fields}
    )
