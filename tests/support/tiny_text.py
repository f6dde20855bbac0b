"""Tiny text encoders and tokenizers of today's pipelines, made of stock configs and a few characters; nothing is downloaded."""

from __future__ import annotations

import torch
from tiny_models import CHARACTERS, tiny_text_encoder, tiny_tokenizer
from transformers import (
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 16
_SMALL = {"hidden_size": WIDTH, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PRINTABLE = [chr(code) for code in range(33, 127)]


def clip() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """CLIP's text encoder with a projection, as SDXL's and SD3's second."""
    return CLIPTextModelWithProjection(tiny_text_encoder().config), tiny_tokenizer()


def t5(max_length: int = 512, width: int = WIDTH) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """T5's encoder, of SD3, FLUX.1 and PixArt."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((character, -2.0) for character in f"▁{CHARACTERS}")]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return _loud(T5EncoderModel(config)), tokenizer


def gemma2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Gemma 2, of SANA and SANA-Sprint."""
    words = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *CHARACTERS)
    tokenizer = GemmaTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    config = Gemma2Config(
        **_SMALL, head_dim=8, num_hidden_layers=1, vocab_size=len(tokenizer), max_position_embeddings=512,
        query_pre_attn_scalar=8, attn_implementation="eager", pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return _loud(Gemma2Model(config)), tokenizer


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Bytes, and the marks of a conversation."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = {word: number for number, word in enumerate([*_SPECIAL, *letters])}
    tokenizer = Qwen2Tokenizer(vocab=words, merges=[], model_max_length=2048)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL[1:])})
    tokenizer.chat_template = _CHAT
    return tokenizer


def qwen3(layers: int = 2, *, causal: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Qwen 3, of Z-Image and FLUX.2-klein (causal, and asked for its layers 9, 18 and 27)."""
    tokenizer = qwen_tokenizer()
    config = Qwen3Config(
        **_SMALL, head_dim=8, num_hidden_layers=layers, vocab_size=len(tokenizer), max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    return _loud(Qwen3ForCausalLM(config) if causal else Qwen3Model(config)), tokenizer


def qwen25_vl() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Qwen 2.5-VL, of Qwen-Image."""
    tokenizer = qwen_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            **_SMALL, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 2048,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH},
        vision_start_token_id=1, vision_end_token_id=2, vision_token_id=0, image_token_id=0, video_token_id=0,
    )  # fmt: skip
    return _loud(Qwen2_5_VLForConditionalGeneration(config)), tokenizer


def mistral3(layers: int = 31) -> tuple[PreTrainedModel, PixtralProcessor]:
    """Mistral 3, of FLUX.2-dev, which is asked for its layers 10, 20 and 30."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    marks = ["<unk>", "<s>", "</s>", "<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    words = {word: number for number, word in enumerate([*marks, " ", "\n", *_PRINTABLE])}
    built = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=marks[4:], model_max_length=2048,
    )  # fmt: skip
    template = (
        "<s>{% for message in messages %}[{{ message['role'] }}]"
        "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
    )
    processor = PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=template)
    config = Mistral3Config(
        text_config={
            **_SMALL, "model_type": "mistral", "head_dim": 8, "num_hidden_layers": layers, "vocab_size": len(tokenizer),
            "max_position_embeddings": 2048, "sliding_window": None, "pad_token_id": 3,
        },
        vision_config={
            "model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "image_size": 28, "patch_size": 14,
        },
        image_token_index=4,
    )  # fmt: skip
    return _loud(Mistral3ForConditionalGeneration(config)), processor


def _loud(model: PreTrainedModel) -> PreTrainedModel:
    """With embeddings and weights so large that captions differ in the picture although nothing was trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(0.4 / parameter.std().clamp(min=1e-6))
    return model.eval()
