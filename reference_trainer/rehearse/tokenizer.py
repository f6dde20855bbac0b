"""CLIP's own tokenizer in the layout of Hugging Face's CLIPTokenizer, from the vocabulary that ships with open_clip."""

from __future__ import annotations

import json
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77


def write_clip_tokenizer(folder: Path, padding: str) -> None:
    """Write vocab.json (49,408 tokens), merges.txt and their configs. padding: the token after the last; SD 2.1 has "!"."""
    folder.mkdir(parents=True)
    own = SimpleTokenizer(context_length=LENGTH)
    renamed = {"<start_of_text>": _START, "<end_of_text>": _END}
    vocabulary = {renamed.get(token, token): number for token, number in own.encoder.items()}
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    special = {"bos_token": _START, "eos_token": _END, "pad_token": padding, "unk_token": _END}
    settings = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": LENGTH}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings | {"tokenizer_class": "CLIPTokenizer"}, indent=2))
