"""Small tokenizers: SentencePiece with each rule for the leading-space marker, and byte-level."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

MARKERS = ("first", "always", "prepend", "never")  # where SentencePiece's kind puts `▁` by itself
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MERGES = [("▁", "a"), ("▁a", "b"), ("a", "b")]


def sentencepiece(
    marker: str,
    specials: Sequence[str | AddedToken] = ("<image>",),
    *,
    bos: str | None = "<s>",
    eos: str = "</s>",
    adds_bos: bool = True,
) -> PreTrainedTokenizerFast:
    """Letters, bytes for every other character, and the pieces `▁a`, `▁ab` and `ab`.

    Args:
        marker: `"first"` in front of the text, `"always"` and `"prepend"` behind special tokens as well, by the
            pre-tokenizer and by the normalizer, or `"never"`.
        specials: Special tokens beside the three that are always there.
        bos: Token of the beginning; `None` leaves the tokenizer without one.
        eos: Token of the end.
        adds_bos: The tokenizer puts `bos` in front of a text by itself.
    """
    first = list(dict.fromkeys(["<unk>", bos or "<s>", eos]))
    letters = [*"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:.?!,'<>/[]|_"]
    vocabulary = [*first, *BYTES, *letters, *("".join(pair) for pair in MERGES)]
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    inner = Tokenizer(models.BPE(ids, MERGES, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if marker == "prepend":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=marker, split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]  # keeps the leading space
    )
    return _finished(inner, first, specials, bos, eos, adds_bos)


def byte_level(
    specials: Sequence[str | AddedToken] = ("<image>",),
    *,
    bos: str | None = "<s>",
    eos: str = "</s>",
    adds_bos: bool = True,
) -> PreTrainedTokenizerFast:
    """A token for each byte, as GPT-2 writes it; arguments as of `sentencepiece`."""
    first = list(dict.fromkeys(["<unk>", bos or "<s>", eos]))
    vocabulary = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({piece: index for index, piece in enumerate(vocabulary)}, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return _finished(inner, first, specials, bos, eos, adds_bos)


def _finished(
    inner: Tokenizer,
    first: Sequence[str],
    specials: Sequence[str | AddedToken],
    bos: str | None,
    eos: str,
    adds_bos: bool,
) -> PreTrainedTokenizerFast:
    inner.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in first])
    inner.add_special_tokens([text if isinstance(text, AddedToken) else AddedToken(text) for text in specials])
    if bos is not None and adds_bos:
        ids = [(bos, inner.token_to_id(bos))]
        inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    names = {"unk_token": "<unk>", "pad_token": "<unk>", "eos_token": eos}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names, **({"bos_token": bos} if bos else {}))
