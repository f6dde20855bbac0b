"""Captions to train on.

In: a recipe's prompt files. Out: captions by number, in a shuffled order that needs no memory. `source` reads, `order` shuffles,
`mapped` keeps large files as memory maps in the cache. `build` makes a prompt file from public lists (`public_lists` knows
them) without the captions that models are evaluated on (`cleaning`, `evaluation`), and `manifest` describes it.
"""

from reference_trainer.prompts.order import shuffled_index
from reference_trainer.prompts.source import WORLD_LENGTH, PromptSource

__all__ = ["WORLD_LENGTH", "PromptSource", "shuffled_index"]
