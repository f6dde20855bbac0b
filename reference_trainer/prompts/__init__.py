"""The captions to train on: `source` has them by number in an order that needs no memory (`order`), from files that are kept
in the cache (`mapped`); `build` makes such a file from public lists, without what a model is evaluated on (`cleaning`,
`evaluation`); `public_lists` says where a list comes from that is not there, and `manifest` what a built file is.
"""

from reference_trainer.prompts.order import shuffled_index
from reference_trainer.prompts.source import WORLD_LENGTH, PromptSource

__all__ = ["WORLD_LENGTH", "PromptSource", "shuffled_index"]
