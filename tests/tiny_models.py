"""Tiny transformers with random weights, saved as a user would hand them in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": "p2c|c2p",
        "position_buckets": 8,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "electra": {"embedding_size": 16},
    "modernbert": {"local_attention": 8, "classifier_pooling": "mean"},
}
"""What tiny configurations of some architectures have of their own."""
SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def save_tiny_model(
    folder: Path,
    texts: Iterable[str],
    *,
    architecture: str = "bert",
    layers: int = 3,
    hidden: int = 32,
    heads: int = 4,
    channels: int = 64,
    vocabulary: int = 500,
    positions: int = 80,
    seed: int = 0,
) -> Path:
    """Save a headless encoder and a WordPiece tokenizer learned from `texts` to `folder`."""
    import torch
    from transformers import AutoModel

    tokenizer = wordpiece_tokenizer(texts, vocabulary)
    config = _config(
        architecture, layers, hidden, heads, channels, len(tokenizer), tokenizer.pad_token_id, positions
    )
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_decoder(
    folder: Path,
    texts: Iterable[str],
    *,
    architecture: str = "llama",
    layers: int = 3,
    hidden: int = 64,
    heads: int = 4,
    channels: int = 128,
    vocabulary: int = 400,
    positions: int = 80,
    seed: int = 0,
) -> Path:
    """Save a language model with tied embeddings, and a tokenizer learned from `texts`, to `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = byte_pair_tokenizer(texts, vocabulary)
    width = {"gpt2": "n_inner", "opt": "ffn_dim"}.get(architecture, "intermediate_size")
    shared = {} if architecture in ("gpt2", "opt") else {"num_key_value_heads": heads // 2}
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        **{width: channels, **shared},
    )
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_pair_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A GPT-2-style tokenizer, which frames texts by nothing and has no padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


def wordpiece_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A lower-casing BERT-style tokenizer (`[CLS] a [SEP]`, `[CLS] a [SEP] b [SEP]`)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **SPECIAL_TOKENS)


def _config(
    architecture: str,
    layers: int,
    hidden: int,
    heads: int,
    channels: int,
    vocabulary: int,
    pad: int,
    positions: int,
) -> Any:
    from transformers import AutoConfig, DistilBertConfig, XLNetConfig

    if architecture == "xlnet":
        return XLNetConfig(
            vocab_size=vocabulary,
            n_layer=layers,
            d_model=hidden,
            n_head=heads,
            d_inner=channels,
            pad_token_id=pad,
        )
    if architecture == "distilbert":
        return DistilBertConfig(
            vocab_size=vocabulary,
            n_layers=layers,
            dim=hidden,
            n_heads=heads,
            hidden_dim=channels,
            max_position_embeddings=positions,
            pad_token_id=pad,
        )
    return AutoConfig.for_model(
        architecture,
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=channels,
        max_position_embeddings=positions,
        pad_token_id=pad,
        **OWN.get(architecture, {}),
    )
