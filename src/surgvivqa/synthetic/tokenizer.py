"""The tokenizer of the packaged base, trained on the synthetic set's questions."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from surgvivqa.data.labels import LABELS
from surgvivqa.data.prompts import build_prompt, build_target


def train_tokenizer(questions: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on questions and SSG-QA's labels.

    As in GPT-2's, the words of a label are separate tokens, and no text is out of vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    pattern = pre_tokenizers.Split(Regex(r" ?[^\W_]+|_+| ?[^\s\w]+|\s+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pattern, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    labels = [build_target(label) for label in LABELS] * 1000
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        min_frequency=2,
        show_progress=False,
    )
    texts = [build_prompt(q) for q in sorted(set(questions))]
    tokenizer.train_from_iterator(texts + labels, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
