"""BLIP's rows for the decoder's token ids: exact by hand and by a reference, errors where they cannot be built."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import BertTokenizer, PreTrainedTokenizerFast

from experiments.alignment import Asked, held_out_loss, make_stand_ins, questions, run_config, word_pieces
from surgvivqa.checkpoints.backbones import load_text_encoder
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.saving import export_pth, save_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.model.embeddings import align_rows, align_word_embeddings, resize_word_embeddings
from surgvivqa.synthetic.tokenizer import train_tokenizer
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] liver grasp ##er ing ##ing the _ 7 e".split()
ROWS = torch.arange(len(WORDS) * 3, dtype=torch.float32).reshape(-1, 3) ** 2
NEUTRAL = ROWS.mean(dim=0)


@pytest.fixture
def pieces() -> BertTokenizer:
    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def byte_level(vocabulary: list[str], **special: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of GPT-2's kind: tokens are bytes in its alphabet, Ġ a space and Ċ a line break."""
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sentence_piece(vocabulary: list[str], **special: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of Llama's kind: ▁ is a space, <0x0A> a byte, and a text's first space is not in the string."""
    model = models.BPE({token: index for index, token in enumerate(vocabulary)}, [], byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def mean(*words: str) -> Tensor:
    return ROWS[[WORDS.index(word) for word in words]].mean(dim=0)


BYTE_LEVEL = [
    ("<|endoftext|>", mean("[SEP]")),
    ("Ġliver", mean("liver")),
    ("liver", mean("liver")),
    ("ĠLIVER", mean("liver")),  # BLIP reads lower case
    ("Ġgrasper", mean("grasp", "##er")),
    ("ing", mean("ing")),  # a token's own string, not a continuation
    ("_", mean("_")),
    ("Ġthe_liver", mean("the", "_", "liver")),
    ("Ġthe_zz", mean("the", "_")),  # an unknown piece beside a known one is ignored
    ("Ã©", mean("e")),  # é, whose accent BLIP removes
    ("Ġ", NEUTRAL),
    ("Ċ", NEUTRAL),
    ("ĠĠĠĠ", NEUTRAL),
    ("Ã", NEUTRAL),  # half of é
    ("Ġzz", NEUTRAL),
    ("[SEP]", NEUTRAL),  # the string of one of BLIP's special tokens is neutral
]


@pytest.mark.parametrize("case", range(len(BYTE_LEVEL)), ids=lambda n: repr(BYTE_LEVEL[n][0]))
def test_rows_of_a_byte_level_vocabulary(pieces: BertTokenizer, case: int) -> None:
    tokenizer = byte_level([token for token, _ in BYTE_LEVEL], eos_token="<|endoftext|>")
    rows = align_rows(ROWS, pieces, tokenizer, len(BYTE_LEVEL))
    torch.testing.assert_close(rows[case], BYTE_LEVEL[case][1])


def test_rows_of_a_sentencepiece_vocabulary(pieces: BertTokenizer) -> None:
    vocabulary = ["<unk>", "<s>", "</s>", "<0x0A>", "<0x37>", "<0xE2>", "▁liver", "liver", "▁", "▁▁", "ing", "▁the"]
    tokenizer = sentence_piece(vocabulary, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    said = ["liver", "liver", None, None, "ing", "the"]
    expected = [NEUTRAL, NEUTRAL, mean("[SEP]"), NEUTRAL, mean("7"), NEUTRAL]
    expected += [NEUTRAL if word is None else mean(word) for word in said]
    torch.testing.assert_close(align_rows(ROWS, pieces, tokenizer, len(vocabulary)), torch.stack(expected))


def test_rows_beyond_the_tokenizer_and_special_tokens_are_neutral(pieces: BertTokenizer) -> None:
    tokenizer = byte_level(["<|endoftext|>", "Ġliver"], eos_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken("<liver>", special=True), AddedToken("the", special=False)])
    rows = align_rows(ROWS, pieces, tokenizer, 7)
    expected = [mean("[SEP]"), mean("liver"), NEUTRAL, mean("the"), NEUTRAL, NEUTRAL, NEUTRAL]
    torch.testing.assert_close(rows, torch.stack(expected))


def test_an_embedding_shorter_than_the_tokenizer_gets_only_its_own_rows(pieces: BertTokenizer) -> None:
    tokenizer = byte_level(["Ġliver", "Ġthe", "<|endoftext|>"], eos_token="<|endoftext|>")
    torch.testing.assert_close(align_rows(ROWS, pieces, tokenizer, 2), torch.stack([mean("liver"), mean("the")]))


def test_half_precision_is_kept_and_averaged_in_full(pieces: BertTokenizer) -> None:
    tokenizer = byte_level(["Ġgrasper", "Ġ"], eos_token=None)
    rows = align_rows(ROWS.half() * 30, pieces, tokenizer, 2)  # the sum over rows is beyond float16
    assert rows.dtype == torch.float16 and rows.isfinite().all()
    torch.testing.assert_close(rows[0], (30 * mean("grasp", "##er")).half())


@functools.cache
def asked() -> list[Asked]:
    """Questions in the source domain's wording, generated once."""
    return questions("source", range(16))


def test_every_row_of_a_trained_vocabulary_equals_the_reference() -> None:
    texts = [text for text, _ in asked()]
    blip, tokenizer = word_pieces(texts, 120), train_tokenizer(texts, 400)
    words = torch.randn(len(blip), 8, generator=torch.Generator().manual_seed(0))
    rows = align_rows(words, blip, tokenizer, 410)
    several = 0
    for index in range(410):
        if index < len(tokenizer) and index != tokenizer.eos_token_id:
            ids = blip.encode(tokenizer.decode([index]), add_special_tokens=False)
            ids = [i for i in ids if i not in blip.all_special_ids]
        else:
            ids = [blip.sep_token_id] if index == tokenizer.eos_token_id else []
        row = sum(words[i] for i in ids) / len(ids) if ids else words.mean(dim=0)
        torch.testing.assert_close(rows[index], row)
        assert len(ids) != 1 or torch.equal(rows[index], words[ids[0]])  # one piece: BLIP's row bit for bit
        several += len(ids) > 1
    assert several > 20


def test_published_keeps_blips_rows_and_adds_the_same_ones_each_time(stand_ins: Path) -> None:
    first, second = (load_text_encoder(str(stand_ins / "text")) for _ in range(2))
    own = first.embeddings.word_embeddings.weight.detach().clone()
    resize_word_embeddings(first, 600)
    torch.manual_seed(5)
    resize_word_embeddings(second, 600)
    rows = [text.embeddings.word_embeddings.weight for text in (first, second)]
    assert torch.equal(rows[0][: len(own)], own) and torch.equal(rows[0], rows[1])
    assert abs(float(rows[0][len(own) :].detach().std() / own.std()) - 1) < 0.05


def test_the_row_of_blips_padding_is_trained_like_the_others(stand_ins: Path, pieces: BertTokenizer) -> None:
    text = load_text_encoder(str(stand_ins / "text"))
    align_word_embeddings(text, pieces, byte_level(["Ġliver", "Ġthe"]), 2)
    text.embeddings.word_embeddings(torch.tensor([0, 1])).sum().backward()
    assert (text.embeddings.word_embeddings.weight.grad == 1).all()


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``video``, ``text`` and ``gpt2`` of parts that know the words of ``asked()``, but for its last 200."""
    root = tmp_path_factory.mktemp("stand-ins")
    make_stand_ins(root, asked()[:-200], steps=120)
    return root


def test_parts_that_know_their_words_start_lower_when_aligned(stand_ins: Path) -> None:
    unseen = asked()[-200:]
    published, aligned = (
        held_out_loss(build_for_training(run_config(stand_ins, embeddings, 0)), unseen)
        for embeddings in ("published", "aligned")
    )
    assert aligned < published - 1


def test_adapters_alone_restore_the_aligned_model(stand_ins: Path, tmp_path: Path) -> None:
    config = run_config(stand_ins, "aligned", 0)
    bundle = build_for_training(config)
    for parameter in bundle.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    save_checkpoint(bundle, tmp_path / "best")
    export_pth(bundle, tmp_path / "lone.pth")
    assert all("lora_" in name for name in load_file(tmp_path / "best" / "model.safetensors"))
    assert json.loads((tmp_path / "best" / "surgvivqa.json").read_text())["settings"]["text_embeddings"] == "aligned"
    fallback = ModelConfig(**{name: getattr(config, name) for name in vars(ModelConfig())})
    for path in (tmp_path / "best", tmp_path / "lone.pth"):
        again = load_checkpoint(path, fallback if path.suffix else ModelConfig()).model.state_dict()
        for name, tensor in bundle.model.state_dict().items():
            assert torch.equal(tensor, again[name]), (path.name, name)
    # A run that starts from it takes the setting from it.
    assert build_for_training(TrainConfig(pretrained_ckpt=tmp_path / "best")).settings.text_embeddings == "aligned"


def test_a_checkpoint_from_before_the_setting_is_published(stand_ins: Path, tmp_path: Path) -> None:
    bundle = build_for_training(run_config(stand_ins, "published", 0))
    save_checkpoint(bundle, tmp_path / "best")
    path = tmp_path / "best" / "surgvivqa.json"
    saved = json.loads(path.read_text())
    del saved["settings"]["text_embeddings"]
    path.write_text(json.dumps(saved))
    again = load_checkpoint(tmp_path / "best", ModelConfig())
    assert again.settings.text_embeddings == "published"
    rows = [b.model.text_encoder.embeddings.word_embeddings.weight for b in (bundle, again)]
    assert torch.equal(*rows)


def test_a_setting_that_contradicts_the_weights_is_an_error(stand_ins: Path, tmp_path: Path) -> None:
    save_checkpoint(build_for_training(run_config(stand_ins, "published", 0)), tmp_path / "first")
    with pytest.raises(InputError, match="--text-embeddings aligned contradicts --pretrained-ckpt"):
        build_for_training(TrainConfig(pretrained_ckpt=tmp_path / "first", text_embeddings="aligned"))
    with pytest.raises(InputError, match="--text-embeddings aligned contradicts --preset tiny"):
        build_for_training(TrainConfig(preset="tiny", text_embeddings="aligned"))


def test_the_flag_reaches_the_model(data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*data_flags, "--preset=tiny", "--text-embeddings=aligned", f"--checkpoint-dir={tmp_path / 'run'}"]
    assert main(["train", *flags, "--max-steps=1", "--workers=0"]) == 2
    assert "--text-embeddings aligned contradicts --preset tiny" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("left", ["nothing", "a broken file"])
def test_a_text_folder_without_a_tokenizer_is_an_error(stand_ins: Path, tmp_path: Path, left: str) -> None:
    shutil.copytree(stand_ins, tmp_path / "parts")
    text = tmp_path / "parts" / "text"
    if left == "nothing":
        for path in text.glob("tokenizer*"):
            path.unlink()
    else:
        (text / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"^--text-model .*/text has no tokenizer that can be loaded"):
        build_for_training(run_config(tmp_path / "parts", "aligned", 0))
    build_for_training(run_config(tmp_path / "parts", "published", 0))  # which needs no tokenizer


def test_a_tokenizer_of_another_text_model_is_an_error(stand_ins: Path, tmp_path: Path) -> None:
    shutil.copytree(stand_ins, tmp_path / "parts")
    vocabulary = WORDS[:5] + [f"word{n}" for n in range(1000)]
    BertTokenizer(vocab={w: n for n, w in enumerate(vocabulary)}).save_pretrained(tmp_path / "parts" / "text")
    with pytest.raises(InputError, match="has ids up to 1004, but its text encoder has"):
        build_for_training(run_config(tmp_path / "parts", "aligned", 0))
