"""The text encoder's word embedding under the decoder's token ids: as published, or aligned string by string.

BLIP has a WordPiece vocabulary of its own, and SurgViVQA looks its rows up with the decoder's token ids. Published
checkpoints keep BLIP's rows where they are and add random ones, so row i no longer means token i (``resize_word_embeddings``);
``align_word_embeddings`` makes a row for each of the decoder's tokens out of the pieces that BLIP reads its string as.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, BlipTextModel

from surgvivqa.config import ModelConfig
from surgvivqa.utils.errors import InputError

ADDED_ROWS_SEED = 20251123


def fit_vocabulary(text_encoder: BlipTextModel, settings: ModelConfig, decoder: Any, tokenizer: Any) -> None:
    """Gives BLIP's word embedding a row for each row of the decoder's, as ``--text-embeddings`` says.

    Args:
        text_encoder: changed in place; its word embedding is still BLIP's own.
        settings: ``text_embeddings``, and the ``text_model`` whose tokenizer ``aligned`` reads.
        decoder: its ``config.vocab_size`` is the number of rows.
        tokenizer: the decoder's.

    Raises:
        InputError: as ``load_blip_tokenizer`` and ``align_word_embeddings``, under ``aligned``.
    """
    rows = decoder.config.vocab_size
    if settings.text_embeddings == "aligned":
        align_word_embeddings(text_encoder, load_blip_tokenizer(settings.text_model), tokenizer, rows)
    else:
        resize_word_embeddings(text_encoder, rows)


def resize_word_embeddings(text_encoder: BlipTextModel, rows: int) -> None:
    """Grows BLIP's word embedding to the decoder's vocabulary, as published checkpoints have it (``resized_rows``)."""
    words = text_encoder.embeddings.word_embeddings
    if rows != words.weight.shape[0]:
        _put_words(text_encoder, resized_rows(words.weight.data, rows), words.padding_idx)
    text_encoder.config.vocab_size = rows


def resized_rows(old: Tensor, rows: int) -> Tensor:
    """A word embedding ``[V, hidden]`` with ``rows`` rows: the old ones, then rows that are normal with the old mean
    and deviation, a pure function of a fixed seed, so that adapters alone restore the same model."""
    new = torch.empty(rows, old.shape[1], dtype=old.dtype)
    kept = min(rows, old.shape[0])
    generator = torch.Generator().manual_seed(ADDED_ROWS_SEED)
    new.normal_(float(old.mean()), float(old.std()), generator=generator)
    new[:kept] = old[:kept]
    return new


def align_word_embeddings(text_encoder: BlipTextModel, word_pieces: Any, tokenizer: Any, rows: int) -> None:
    """Puts the rows of ``aligned_rows`` in the place of BLIP's own: a pure function of published files, without any
    random number, so that adapters alone restore the same model.

    Raises:
        InputError: BLIP's tokenizer knows ids that its embedding has no row for.
    """
    new = aligned_rows(text_encoder.embeddings.word_embeddings.weight.data, word_pieces, tokenizer, rows)
    # No padding index: row 0 was BLIP's [PAD], which gets no gradient; now it is some token of the decoder's.
    _put_words(text_encoder, new, None)
    text_encoder.config.vocab_size = rows


def aligned_rows(words: Tensor, word_pieces: Any, tokenizer: Any, rows: int) -> Tensor:
    """A row for each of the decoder's tokens: the mean of BLIP's rows for the same string.

    A token's string is read as BLIP reads any text: in lower case, and from its beginning, so " ing" and "ing" are both
    the word "ing", and neither is the continuation "##ing". Byte-level BPE does not tell what a token without a space
    is. "plate" in " cystic_plate", "left" in " top-left" and "Answer" after a line break start a word for BLIP, which
    cuts at every punctuation mark; the end of a rare word does not. One row has to serve both, and the string itself is
    what the two vocabularies share.

    The end-of-text token gets BLIP's [SEP]. What BLIP has no piece for (white space, half of a UTF-8 character, a
    string unknown to it), the decoder's other special tokens, and rows beyond its tokenizer, where a vocabulary is
    padded to a round number, get the mean of all of BLIP's rows, which says nothing.

    Args:
        words: BLIP's rows ``[P, hidden]``, of any floating dtype.
        word_pieces: BLIP's tokenizer.
        tokenizer: the decoder's tokenizer.
        rows: rows of the decoder's embedding.

    Returns:
        ``[rows, hidden]`` in the dtype of ``words``; means are taken in float32.

    Raises:
        InputError: BLIP's tokenizer knows ids that ``words`` has no row for.
    """
    highest = max(word_pieces.get_vocab().values())
    if highest >= len(words):
        raise InputError(
            f"The tokenizer of --text-model {word_pieces.name_or_path} has ids up to {highest}, but its text encoder "
            f"has {len(words)} word rows; give a folder whose tokenizer and weights belong together."
        )
    special = set(word_pieces.all_special_ids)
    read = word_pieces(token_strings(tokenizer, rows), add_special_tokens=False)["input_ids"]
    pieces = [[piece for piece in ids if piece not in special] for ids in read]
    end = tokenizer.eos_token_id
    if end is not None and end < rows and word_pieces.sep_token_id is not None:
        pieces[end] = [word_pieces.sep_token_id]
    starts = [0, *itertools.accumulate(len(ids) for ids in pieces)]
    flat = torch.tensor(list(itertools.chain.from_iterable(pieces)), dtype=torch.long)
    known = words.float()
    # One bag of rows a token; unlike gathering and adding, it never holds a row for each piece of 150,000 tokens.
    result = functional.embedding_bag(flat, known, torch.tensor(starts[:-1]), mode="mean")
    result[torch.tensor([not ids for ids in pieces])] = known.mean(dim=0)
    return result.to(words.dtype)


def token_strings(tokenizer: Any, rows: int) -> list[str]:
    """The text of each of a tokenizer's tokens by id, ``rows`` of them; empty for special tokens and ids it has not."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    strings = [""] * rows
    for token, index in tokenizer.get_vocab().items():
        if index < rows and index not in special:
            strings[index] = tokenizer.convert_tokens_to_string([token])
    return strings


def load_blip_tokenizer(name: str) -> Any:
    """BLIP's own tokenizer, from the hub name or folder of its weights.

    Raises:
        InputError: it has none.
    """
    cause: Exception | None = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        # Of a folder with a model's configuration alone, Transformers makes a tokenizer that knows no word.
        if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            return tokenizer
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        cause = error
    raise InputError(
        f"--text-model {name} has no tokenizer that can be loaded, and --text-embeddings aligned needs BLIP's own; put "
        f"tokenizer.json or vocab.txt beside its weights, or give --text-embeddings published."
    ) from cause


def _put_words(text_encoder: BlipTextModel, rows: Tensor, padding: int | None) -> None:
    embedding = nn.Embedding(rows.shape[0], rows.shape[1], padding_idx=padding)
    embedding.weight.data.copy_(rows)
    text_encoder.embeddings.word_embeddings = embedding
