"""The text encoder's word embedding for the decoder's token ids: as published, or aligned token by token.

BLIP has its own WordPiece vocabulary, but SurgViVQA indexes its word embedding with the decoder's token ids. Published
checkpoints keep BLIP's rows in place and append random ones, so row i does not mean token i
(``resize_word_embeddings``). ``align_word_embeddings`` builds a row for each of the decoder's tokens from the word
pieces that BLIP's tokenizer splits its string into.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, BlipTextModel, PreTrainedModel, PreTrainedTokenizerBase

from surgvivqa.config import ModelConfig
from surgvivqa.utils.errors import InputError

ADDED_ROWS_SEED = 20251123  # of all random tensors that no published part holds


def fit_vocabulary(
    text_encoder: BlipTextModel, settings: ModelConfig, decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Gives BLIP's word embedding one row per row of the decoder's, as ``--text-embeddings`` says.

    Args:
        text_encoder: with BLIP's own word embedding; changed in place.
        settings: ``text_embeddings``, and the ``text_model`` whose tokenizer ``aligned`` needs.
        decoder: its ``config.vocab_size`` is the number of rows.
        tokenizer: the decoder's.

    Raises:
        InputError: under ``aligned``, as ``load_blip_tokenizer`` and ``aligned_rows``.
    """
    rows = decoder.config.vocab_size
    if settings.text_embeddings == "aligned":
        align_word_embeddings(text_encoder, load_blip_tokenizer(settings.text_model), tokenizer, rows)
    else:
        resize_word_embeddings(text_encoder, rows)


def resize_word_embeddings(text_encoder: BlipTextModel, rows: int) -> None:
    """Resizes BLIP's word embedding to the decoder's vocabulary, as in published checkpoints (``resized_rows``)."""
    words = text_encoder.embeddings.word_embeddings
    if rows != words.weight.shape[0]:
        _set_word_embeddings(text_encoder, resized_rows(words.weight.data, rows), words.padding_idx)
    text_encoder.config.vocab_size = rows


def resized_rows(words: Tensor, rows: int) -> Tensor:
    """Resizes a word embedding.

    Appended rows are normal with the mean and the standard deviation of the given ones. They are drawn from a fixed
    seed, so that adapters alone restore the same model.

    Args:
        words: ``[V, hidden]``.
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
    """Replaces BLIP's word embedding by ``aligned_rows``, in place.

    The rows follow from published files without random numbers, so that adapters alone restore the same model.

    Raises:
        InputError: as ``aligned_rows``.
    """
    aligned = aligned_rows(text_encoder.embeddings.word_embeddings.weight.data, blip_tokenizer, tokenizer, rows)
    # No padding index, whose row would get no gradient: BLIP's row 0 is [PAD], but the decoder's token 0 is a word.
    _set_word_embeddings(text_encoder, aligned, None)
    text_encoder.config.vocab_size = rows


def aligned_rows(
    words: Tensor, blip_tokenizer: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, rows: int
) -> Tensor:
    """A row for each of the decoder's tokens: the mean of the rows of BLIP's word pieces for the same string.

    A token's string is tokenized as BLIP tokenizes any text: in lower case and as the start of a word, so " ing" and
    "ing" both become the word "ing" and not the continuation "##ing". Byte-level BPE does not say which a token without
    a leading space is: "plate" in " cystic_plate", "left" in " top-left" and "Answer" after a line break start a word
    for BLIP, which splits at punctuation, while the end of a rare word continues one. One row serves both.

    The end-of-text token gets the row of BLIP's [SEP]. Tokens without a word piece (white space, half of a UTF-8
    character, strings unknown to BLIP), the decoder's other special tokens, and rows beyond its tokenizer, where a
    vocabulary is padded to a round number, get the mean of all of BLIP's rows.

    Args:
        words: BLIP's word embedding ``[P, hidden]``, of any floating dtype.
        blip_tokenizer: BLIP's tokenizer.
        tokenizer: the decoder's tokenizer.
        rows: the number of rows of the decoder's word embedding.

    Returns:
        ``[rows, hidden]`` in the dtype of ``words``; means are computed in float32.

    Raises:
        InputError: BLIP's tokenizer has ids that ``words`` has no row for.
    """
    highest = max(blip_tokenizer.get_vocab().values())
    if highest >= len(words):
        raise InputError(
            f"The tokenizer of --text-model {blip_tokenizer.name_or_path} has ids up to {highest}, but its text "
            f"encoder has {len(words)} word rows; give a folder whose tokenizer and weights belong together."
        )
    special = set(blip_tokenizer.all_special_ids)
    encoded = blip_tokenizer(token_strings(tokenizer, rows), add_special_tokens=False)["input_ids"]
    pieces = [[piece for piece in ids if piece not in special] for ids in encoded]
    end = tokenizer.eos_token_id
    if end is not None and end < rows and blip_tokenizer.sep_token_id is not None:
        pieces[end] = [blip_tokenizer.sep_token_id]
    starts = [0, *itertools.accumulate(len(ids) for ids in pieces)]
    flat = torch.tensor(list(itertools.chain.from_iterable(pieces)), dtype=torch.long)
    table = words.float()
    # One bag per token; unlike a gather, it never holds a row for each piece of 150,000 tokens.
    result = functional.embedding_bag(flat, table, torch.tensor(starts[:-1]), mode="mean")
    result[torch.tensor([not ids for ids in pieces])] = table.mean(dim=0)
    return result.to(words.dtype)


def token_strings(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[str]:
    """The text of the tokens with ids 0 to ``rows - 1``; empty for special tokens and unused ids."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    strings = [""] * rows
    for token, index in tokenizer.get_vocab().items():
        if index < rows and index not in special:
            strings[index] = tokenizer.convert_tokens_to_string([token])
    return strings


def load_blip_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads BLIP's tokenizer from the hub name or folder of its weights.

    Raises:
        InputError: there is none that can be loaded.
    """
    cause: Exception | None = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        # From a folder with only a model's configuration, Transformers builds a tokenizer without words.
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
