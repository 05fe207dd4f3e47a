"""Decoders other than GPT-2: equal to the reference, labels terminated, widths projected, or a clear error."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    MistralConfig,
    OPTConfig,
    T5Config,
    T5Model,
)

from surgvivqa.checkpoints.folders import load_folder
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.checkpoints.saving import save_checkpoint
from surgvivqa.data.labels import LABELS
from surgvivqa.data.packing import pack_training
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.freezing import set_modes, trainable_table
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.scoring import find_best_labels, score_labels
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError
from tests.helpers.parts import (
    KINDS,
    add_decoder,
    config,
    make_parts,
    randomize_trainable,
    settings,
    splitting_tokenizer,
)
from tests.helpers.reference import reference_log_prob

QUESTIONS = [["How many tools are there?", "Is a liver there?"], ["What is the grasper doing?"]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_parts(tmp_path_factory.mktemp("parts"))
    for kind in KINDS[1:]:
        add_decoder(root, kind)
    return root


def built(parts: Path, kind: str, **flags: object) -> ModelBundle:
    bundle = build_for_training(config(parts, kind, **flags))
    randomize_trainable(bundle.model, 0.1)
    bundle.model.eval()
    return bundle


def video(model: SurgViVQAModel) -> torch.Tensor:
    clips = torch.randn(2, model.config.video_config.num_frames, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.encode_video(clips)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["prefix", "causal", "bidirectional"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_all_labels_equal_the_reference(parts: Path, kind: str, mask: str) -> None:
    bundle = built(parts, kind)
    prompts, tokens = bundle.prompt_tokenizer(), video(bundle.model)
    ids = [[prompts.prompt_ids(q) for q in row] for row in QUESTIONS]
    trie = LabelTrie(prompts.label_ids)
    ours = score_labels(bundle.model, ids, tokens, trie, mask)
    assert ours.shape == (3, 51)
    with torch.no_grad():
        plain = torch.stack(
            [
                torch.stack(
                    [reference_log_prob(bundle.model, p, a, tokens[f : f + 1], mask) for a in prompts.label_ids]
                )
                for f, row in enumerate(ids)
                for p in row
            ]
        )
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    if mask != "bidirectional":
        best, sums, _ = find_best_labels(bundle.model, ids, tokens, trie, mask)
        assert torch.equal(best, plain.argmax(dim=1))
        torch.testing.assert_close(sums, plain.max(dim=1).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_equal_the_reference(parts: Path, kind: str) -> None:
    bundle = built(parts, kind, lora_dropout=0.0)
    model, prompts = bundle.model, bundle.prompt_tokenizer()
    tokens = video(model)
    ids = [[prompts.prompt_ids(q) for q in row] for row in QUESTIONS]
    answers = [[prompts.label_ids[2], prompts.label_ids[12]], [prompts.label_ids[30]]]
    losses = model(pack_training(ids, answers, "prefix"), video_tokens=tokens)
    losses.sum().backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    flat = [
        (p, a, f)
        for f, (row, said) in enumerate(zip(ids, answers, strict=True))
        for p, a in zip(row, said, strict=True)
    ]
    plain = torch.stack([-reference_log_prob(model, p, a, tokens[f : f + 1], "prefix") for p, a, f in flat])
    plain.sum().backward()
    torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == ours.keys()
    for name, gradient in ours.items():
        scale = float(theirs[name].abs().max().clamp(min=1))
        torch.testing.assert_close(gradient / scale, theirs[name] / scale, rtol=1e-4, atol=1e-5, msg=name)


def test_adapters_are_on_the_four_projections_of_a_llama(parts: Path) -> None:
    bundle = built(parts, "llama", lora_r=4)
    adapted = {n.split(".lora_")[0].rpartition(".")[2] for n, _ in bundle.model.named_parameters() if "lora_" in n}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}
    table = {name: trained for name, trained, _ in trainable_table(bundle.model)}
    # Two layers; queries and outputs 48 x 48, keys and values 48 x 24 (two of four heads).
    assert table["llm LoRA"] == 2 * 4 * (2 * (48 + 48) + 2 * (48 + 24))
    assert table["projections"] == 32 * 48 + 48
    assert not table["llm base"] and not table["text_encoder"]


def test_labels_that_are_prefixes_of_others_are_terminated(parts: Path) -> None:
    prompts = built(parts, "split").prompt_tokenizer()
    one, ten, liver = (LABELS.index(label) for label in ("1", "10", "liver"))
    end = prompts.tokenizer.eos_token_id
    assert prompts.label_ids[ten][: len(prompts.label_ids[one]) - 1] == prompts.label_ids[one][:-1]
    assert prompts.label_ids[one][-1] == end and end not in prompts.label_ids[ten] + prompts.label_ids[liver]
    assert one in prompts.terminated and ten not in prompts.terminated
    # No label is a prefix of another, so the probabilities are those of distinct outcomes.
    for c, ids in enumerate(prompts.label_ids):
        assert not any(other[: len(ids)] == ids for o, other in enumerate(prompts.label_ids) if o != c)


def test_labels_that_are_no_prefixes_are_not_terminated() -> None:
    prompts = load_folder(PACKAGED_BASE).prompt_tokenizer()
    assert prompts.terminated == []
    assert prompts.label_ids == [prompts.tokenizer(f" {label}")["input_ids"] for label in LABELS]


def test_a_label_follows_the_prompt_as_it_would_in_one_text(parts: Path) -> None:
    prompts = built(parts, "llama").prompt_tokenizer()
    whole = prompts.tokenizer("Answer: liver", add_special_tokens=False)["input_ids"]
    assert prompts.label_ids[LABELS.index("liver")] == whole[-len(prompts.label_ids[LABELS.index("liver")]) :]
    assert prompts.tokenizer.decode(prompts.label_ids[LABELS.index("liver")]).strip() == "liver"


def test_without_an_end_of_text_token_such_labels_are_an_error() -> None:
    tokenizer = splitting_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        PromptTokenizer(tokenizer, "simple", 128)


def test_probabilities_of_a_terminated_label_and_of_its_continuations_sum_to_its_prefix(parts: Path) -> None:
    """By brute force over one step: a label's score with its end, those of its continuations and the rest of the
    vocabulary make the score of its beginning."""
    bundle = built(parts, "split")
    prompts, tokens = bundle.prompt_tokenizer(), video(bundle.model)
    one = prompts.label_ids[LABELS.index("1")]
    prompt = prompts.prompt_ids("How many?")
    with torch.no_grad():
        begun = reference_log_prob(bundle.model, prompt, one[:-1], tokens[:1], "prefix")
        steps = [
            reference_log_prob(bundle.model, prompt, [*one[:-1], token], tokens[:1], "prefix")
            for token in range(bundle.model.config.decoder_config.vocab_size)
        ]
    torch.testing.assert_close(torch.stack(steps).logsumexp(0), begun, rtol=1e-5, atol=1e-5)
    scores = score_labels(bundle.model, [[prompt], [prompt]], tokens, LabelTrie(prompts.label_ids), "prefix")[0]
    torch.testing.assert_close(scores[LABELS.index("1")], steps[one[-1]], rtol=1e-5, atol=1e-5)
    assert scores[LABELS.index("1")] < begun


@pytest.mark.parametrize("kind", ["llama", "qwen3", "split"])
def test_the_trained_tensors_restore_the_model(parts: Path, kind: str, tmp_path: Path) -> None:
    bundle = built(parts, kind, lora_r=4)
    save_checkpoint(bundle, tmp_path / "trained")
    save_checkpoint(bundle, tmp_path / "all", everything=True)
    for name in ("trained", "all"):
        again = load_checkpoint(tmp_path / name, settings(parts)).model.state_dict()
        for key, tensor in bundle.model.state_dict().items():
            assert torch.equal(tensor, again[key]), (name, key)


def test_a_video_encoder_of_another_width_is_projected(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "p")
    make_parts(tmp_path / "wide", video_hidden=64)
    run = config(tmp_path / "p", "qwen3", video_model=str(tmp_path / "wide" / "video"))
    bundle = build_for_training(run)
    model = bundle.model.eval()
    assert isinstance(model.video_projection, torch.nn.Linear) and model.video_projection.in_features == 64
    tokens, prompts = video(model), bundle.prompt_tokenizer()
    assert tokens.shape[-1] == 64  # the encoder's own width, which a cache stores
    ids, trie = [[prompts.prompt_ids(q) for q in row] for row in QUESTIONS], LabelTrie(prompts.label_ids)
    ours = score_labels(model, ids, tokens, trie, "prefix")
    with torch.no_grad():
        plain = reference_log_prob(model, ids[1][0], prompts.label_ids[7], tokens[1:], "prefix")
    torch.testing.assert_close(ours[2, 7], plain, rtol=1e-5, atol=1e-5)
    best, _, _ = find_best_labels(model, ids, tokens, trie, "prefix")
    assert torch.equal(best, ours.argmax(dim=1))
    losses = model(pack_training(ids, [[[3], [4]], [[5, 6]]], "prefix"), video_tokens=tokens)
    losses.sum().backward()
    assert model.video_projection.weight.grad is not None
    run.cache, run.cache_text = tmp_path / "cache", True
    with pytest.raises(InputError, match="trainable projection"):
        build_for_training(run)


BLOOM = BloomConfig(vocab_size=405, hidden_size=32, n_layer=1, n_head=2)
NEO = GPTNeoConfig(vocab_size=405, hidden_size=32, num_layers=1, num_heads=2, attention_types=[[["global"], 1]])


OSS = GptOssConfig(vocab_size=405, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                   head_dim=16, intermediate_size=32, num_local_experts=2, num_experts_per_tok=1)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "made", "message"),
    [("bloom", BLOOM, "packed stream"), ("neo", NEO, "packed stream"), ("oss", OSS, "its attention has s_aux")],
)
def test_a_decoder_whose_packed_streams_would_be_wrong_is_an_error(
    parts: Path, tmp_path: Path, name: str, made: object, message: str
) -> None:
    folder = shutil.copytree(parts / "split", tmp_path / name)
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    with pytest.raises(InputError, match=message):
        build_for_training(config(parts, decoder_model=str(folder)))


NEOX = GPTNeoXConfig(vocab_size=405, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
OPT = OPTConfig(
    vocab_size=405, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=32
)


@pytest.mark.parametrize(("name", "made"), [("neox", NEOX), ("opt", OPT)])
def test_other_kinds_train_or_are_refused_but_never_crash(parts: Path, tmp_path: Path, name: str, made: object) -> None:
    folder = shutil.copytree(parts / "split", tmp_path / name)
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    try:
        bundle = build_for_training(config(parts, decoder_model=str(folder)))
    except InputError as refusal:
        assert "packed stream" in str(refusal)
        return
    set_modes(bundle.model)
    prompts = bundle.prompt_tokenizer()
    packed = pack_training([[prompts.prompt_ids("How many?")]], [[prompts.label_ids[3]]], "prefix")
    loss = bundle.model(packed, video_tokens=video(bundle.model)[:1]).sum()
    loss.backward()
    plain = -reference_log_prob(
        bundle.model.eval(), prompts.prompt_ids("How many?"), prompts.label_ids[3], video(bundle.model)[:1], "prefix"
    )
    bundle.model.eval()
    again = bundle.model(packed, video_tokens=video(bundle.model)[:1]).sum()
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-5)


def test_code_in_a_decoders_folder_is_never_run(parts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(parts / "split", tmp_path / "foreign")
    (folder / "modeling_foreign.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'owned')!r})\n")
    written = json.loads((folder / "config.json").read_text())
    written |= {"model_type": "foreign", "auto_map": {"AutoConfig": "modeling_foreign.Foreign"}}
    (folder / "config.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match="cannot be loaded"):
        build_for_training(config(parts, decoder_model=str(folder)))
    assert not (tmp_path / "owned").exists()


def test_a_window_shorter_than_a_sequence_is_an_error(parts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(parts / "split", tmp_path / "mistral")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    made = MistralConfig(vocab_size=405, num_key_value_heads=2, sliding_window=64, **sizes)
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    with pytest.raises(InputError, match="attends to the last 64 tokens"):
        build_for_training(config(parts, decoder_model=str(folder), max_length=128))
    assert build_for_training(config(parts, decoder_model=str(folder))).settings.max_length == 64


def test_a_decoder_that_is_not_a_causal_language_model_is_an_error(parts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(parts / "split", tmp_path / "t5")
    T5Model(T5Config(vocab_size=405, d_model=16, d_ff=16, num_layers=1, num_heads=1, d_kv=16)).save_pretrained(folder)
    with pytest.raises(InputError, match="not a causal language model"):
        build_for_training(config(parts, decoder_model=str(folder)))


def test_a_tokenizer_larger_than_its_model_is_an_error(parts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(parts / "gpt2", tmp_path / "gpt2")
    tokenizer = splitting_tokenizer()
    tokenizer.add_tokens([f"<extra{n}>" for n in range(200)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="its tokenizer has"):
        build_for_training(config(parts, decoder_model=str(folder)))
