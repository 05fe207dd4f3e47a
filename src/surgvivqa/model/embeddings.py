"""Adapts the text encoder's word embedding to the decoder's token ids: as published, or aligned by token.

BLIP has a WordPiece vocabulary, but SurgViVQA indexes BLIP's word embedding with the decoder's token ids. Published
checkpoints keep BLIP's rows and append random ones, so row i does not represent token i (``resize_word_embeddings``).
``align_word_embeddings`` instead computes a row for each of the decoder's tokens from the word pieces into which BLIP's
tokenizer splits the token's string.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, BlipTextModel, PreTrainedModel, PreTrainedTokenizerBase

from surgvivqa.config import ModelConfig
from surgvivqa.utils.errors import InputError

ADDED_ROWS_SEED = 20251123  # for all random tensors that are in no published part


def fit_vocabulary(
    text_encoder: BlipTextModel, settings: ModelConfig, decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Resizes BLIP's word embedding to the decoder's vocabulary, in the way that ``--text-embeddings`` selects.

    Args:
        text_encoder: the text encoder with BLIP's word embedding; changed in place.
        settings: the model's settings; ``text_embeddings`` and, for ``aligned``, ``text_model`` are used.
        decoder: the decoder; its ``config.vocab_size`` is the number of rows.
        tokenizer: the decoder's tokenizer.

    Raises:
        InputError: under ``aligned``, BLIP's tokenizer cannot be loaded or does not belong to the weights.
    """
    rows = decoder.config.vocab_size
    if settings.text_embeddings == "aligned":
        align_word_embeddings(text_encoder, load_blip_tokenizer(settings.text_model), tokenizer, rows)
    else:
        resize_word_embeddings(text_encoder, rows)


def resize_word_embeddings(text_encoder: BlipTextModel, rows: int) -> None:
    """Resizes BLIP's word embedding to ``rows`` rows, as in published checkpoints (``resize_rows``)."""
    embedding = text_encoder.embeddings.word_embeddings
    if rows != embedding.weight.shape[0]:
        _set_word_embeddings(text_encoder, resize_rows(embedding.weight.data, rows), embedding.padding_idx)
    text_encoder.config.vocab_size = rows


def resize_rows(words: Tensor, rows: int) -> Tensor:
    """Resizes the weight of a word embedding.

    Appended rows are drawn from a normal distribution with the mean and the standard deviation of ``words``, with a
    fixed seed, so that a checkpoint of adapters alone restores the same model.

    Args:
        words: ``[V, hidden]`` float.
        rows: the number of rows to return.

    Returns:
        ``[rows, hidden]`` in the dtype of ``words``.
    """
    resized = torch.empty(rows, words.shape[1], dtype=words.dtype)
    common = min(rows, words.shape[0])
    generator = torch.Generator().manual_seed(ADDED_ROWS_SEED)
    resized.normal_(float(words.mean()), float(words.std()), generator=generator)
    resized[:common] = words[:common]
    return resized


def align_word_embeddings(
    text_encoder: BlipTextModel,
    blip_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
) -> None:
    """Replaces BLIP's word embedding by ``align_rows``, in place.

    The rows are computed from published files without random numbers, so that a checkpoint of adapters alone restores
    the same model.

    Raises:
        InputError: BLIP's tokenizer has ids for which the word embedding has no row.
    """
    aligned = align_rows(text_encoder.embeddings.word_embeddings.weight.data, blip_tokenizer, tokenizer, rows)
    # BLIP's token 0 is [PAD], but the decoder's is a word, whose row needs a gradient: no padding index.
    _set_word_embeddings(text_encoder, aligned, None)
    text_encoder.config.vocab_size = rows


def align_rows(
    words: Tensor, blip_tokenizer: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, rows: int
) -> Tensor:
    """Computes a row for each of the decoder's tokens: the mean of the rows of BLIP's word pieces for its string.

    BLIP tokenizes a token's string in lower case and as the start of a word, so " ing" and "ing" both become the word
    "ing" and not the continuation "##ing". Byte-level BPE does not distinguish them for a token without a leading
    space: "plate" in " cystic_plate", "left" in " top-left" and "Answer" after a line break start a word for BLIP,
    which splits at punctuation, but the end of a rare word continues one. One row represents both.

    The end-of-text token gets the row of BLIP's [SEP]. The mean of all of BLIP's rows is used for tokens without a word
    piece (white space, a part of a UTF-8 character, strings unknown to BLIP), for the decoder's other special tokens,
    and for rows without a token, by which a vocabulary is padded.

    Args:
        words: BLIP's word embedding ``[P, hidden]`` float.
        blip_tokenizer: BLIP's tokenizer.
        tokenizer: the decoder's tokenizer.
        rows: the number of rows of the decoder's word embedding.

    Returns:
        ``[rows, hidden]`` in the dtype of ``words``; means are computed in float32.

    Raises:
        InputError: BLIP's tokenizer has ids for which ``words`` has no row.
    """
    highest = max(blip_tokenizer.get_vocab().values())
    if highest >= len(words):
        raise InputError(
            f"The tokenizer of --text-model {blip_tokenizer.name_or_path} has ids up to {highest}, but its text "
            f"encoder has {len(words)} word rows; give a folder whose tokenizer and weights belong together."
        )
    special_ids = set(blip_tokenizer.all_special_ids)
    encoded = blip_tokenizer(list_token_strings(tokenizer, rows), add_special_tokens=False)["input_ids"]
    pieces = [[piece for piece in ids if piece not in special_ids] for ids in encoded]
    end_id = tokenizer.eos_token_id
    if end_id is not None and end_id < rows and blip_tokenizer.sep_token_id is not None:
        pieces[end_id] = [blip_tokenizer.sep_token_id]
    starts = [0, *itertools.accumulate(len(ids) for ids in pieces)]
    flat = torch.tensor(list(itertools.chain.from_iterable(pieces)), dtype=torch.long)
    table = words.float()
    # One bag per token; a gather would hold a row for each piece of up to 150,000 tokens.
    result = functional.embedding_bag(flat, table, torch.tensor(starts[:-1]), mode="mean")
    result[torch.tensor([not ids for ids in pieces])] = table.mean(dim=0)
    return result.to(words.dtype)


def list_token_strings(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[str]:
    """The strings of the tokens with ids 0 to ``rows - 1``; empty for special tokens and unused ids."""
    special_ids = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special_ids.update(tokenizer.all_special_ids)
    strings = [""] * rows
    for token, index in tokenizer.get_vocab().items():
        if index < rows and index not in special_ids:
            strings[index] = tokenizer.convert_tokens_to_string([token])
    return strings


def load_blip_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads BLIP's tokenizer from the hub name or folder of its weights.

    Raises:
        InputError: there is no tokenizer, or it cannot be loaded.
    """
    cause: Exception | None = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        # For a folder with only a model's configuration, Transformers builds a tokenizer without words.
        if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            return tokenizer
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        cause = error
    raise InputError(
        f"--text-model {name} has no tokenizer that can be loaded, and --text-embeddings aligned needs BLIP's own; add "
        f"tokenizer.json or vocab.txt to its folder, or use --text-embeddings published."
    ) from cause


def _set_word_embeddings(text_encoder: BlipTextModel, rows: Tensor, padding: int | None) -> None:
    embedding = nn.Embedding(rows.shape[0], rows.shape[1], padding_idx=padding)
    embedding.weight.data.copy_(rows)
    text_encoder.embeddings.word_embeddings = embedding
