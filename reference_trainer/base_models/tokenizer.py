"""A CLIPTokenizer for the world's language: byte-level BPE in which every word of the world is one token.

Any other text still tokenises (into letters and bytes), as with CLIP's own vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from sbv2bench.mini import world

CONTEXT_LENGTH = 24  # the longest caption has 18 words, and two tokens mark start and end
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path) -> int:
    """Write vocab.json, merges.txt and their configs in the layout of CLIPTokenizer. Returns the vocabulary's size.

    The end-of-text token has the highest id, as CLIP's text pooling (argmax of ids) needs, and is the padding.
    """
    merges = _learn_merges(_words())
    letters = list(_byte_letters().values())
    vocabulary = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges] + [_START, _END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT_LENGTH, "do_lower_case": True}
    config = special | settings | {"errors": "replace"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    return len(vocabulary)


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


def _byte_letters() -> dict[int, str]:
    """GPT-2's visible stand-in for each byte: printable Latin-1 stands for itself, the rest for code points from 256."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in letters)}
    return letters
