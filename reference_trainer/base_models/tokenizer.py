"""A CLIPTokenizer for the world's language: byte-level BPE in which every word of the world is one token.

Any other text still tokenises (into letters and bytes), as with CLIP's own vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from open_clip.tokenizer import bytes_to_unicode

from sbv2bench.mini import world

CONTEXT_LENGTH = 24  # the longest caption has 18 words, and two tokens mark start and end
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path) -> int:
    """Write vocab.json, merges.txt and their configs in the layout of CLIPTokenizer. Returns the vocabulary's size.

    The end-of-text token has the highest id, as CLIP's text pooling (argmax of ids) needs, and is the padding.
    """
    merges = _learn_merges(_words())
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges] + [START, END]
    write_files(folder, {token: i for i, token in enumerate(tokens)}, merges, CONTEXT_LENGTH)
    return len(tokens)


def write_files(
    folder: Path,
    vocabulary: dict[str, int],
    merges: Iterable[tuple[str, str]],
    length: int,
    padding: str = END,
    **settings: object,
) -> None:
    """The files of a CLIPTokenizer. length: most tokens of a text. padding: the token after the last. settings: further ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": padding, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    shared = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | shared | {"errors": "replace"}, indent=1))


def _words() -> Counter[str]:
    """Every word of 20,000 training captions with its count; punctuation stands alone, as CLIP's pattern splits it."""
    sentences = world.captions(world.scenes("training", np.arange(20_000)))
    return Counter(" ".join(sentences).replace(",", " ,").split())


def _learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair (ties by spelling) until every word is one symbol (Sennrich et al. 2016)."""
    spelled = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in spelled.items():
            for pair in pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, symbols in spelled.items():
            spelled[word] = _merge(symbols, best)


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
