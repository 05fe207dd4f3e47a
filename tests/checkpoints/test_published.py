"""Files in the published form: read as they come, written as they are read, refused where they are wrong."""

import copy
import json
import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BlipTextModel, GPT2LMHeadModel, VideoMAEModel

from surgvivqa.checkpoints.backbones import load_text_encoder
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.published import WORDS
from surgvivqa.checkpoints.saving import export_pth, save_checkpoint
from surgvivqa.cli import main
from surgvivqa.data.frames import FrameStore
from surgvivqa.data.labels import LABELS
from surgvivqa.data.prompt_tokens import PromptTokenizer
from surgvivqa.model.embeddings import resize_rows
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.scoring import score_labels
from surgvivqa.synthetic.tokenizer import train_tokenizer
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError
from tests.helpers.parts import config, make_parts, randomize_trainable, settings

State = dict[str, Tensor]


class Published(nn.Module):
    """The module whose state dict the published files are: three children, nothing of ours, moved off the parts by
    ``noise``."""

    def __init__(self, parts: Path, lora: bool, noise: float = 0.05) -> None:
        super().__init__()
        self.visual_encoder = VideoMAEModel.from_pretrained(parts / "video")
        text = load_text_encoder(str(parts / "text"))
        self.text_encoder = BlipTextModel(text.config, add_pooling_layer=True)
        self.text_encoder.load_state_dict(text.state_dict())
        self.llm: Any = GPT2LMHeadModel.from_pretrained(parts / "gpt2")
        rows = self.llm.config.vocab_size
        words = nn.Embedding(rows, 32)
        words.weight.data.copy_(resize_rows(self.text_encoder.embeddings.word_embeddings.weight.data, rows))
        self.text_encoder.embeddings.word_embeddings = words
        if lora:
            targets = LoraConfig(r=4, lora_alpha=32, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
            self.llm = get_peft_model(self.llm, targets)
        torch.manual_seed(5)
        for parameter in self.parameters():  # another model than the parts alone would give
            parameter.data += noise * torch.randn_like(parameter)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module", params=[True, False], ids=["lora", "plain"])
def state(parts: Path, request: pytest.FixtureRequest) -> State:
    return {k: v.clone() for k, v in Published(parts, request.param).state_dict().items()}


def old_names(state: State) -> State:
    """As a file written with Transformers 4 has them."""
    result = OrderedDict()
    for name, tensor in state.items():
        if name.startswith("visual_encoder"):
            for part, short in (("query", "q"), ("value", "v")):
                name = name.replace(f"attention.attention.{part}.bias", f"attention.attention.{short}_bias")
        result[name] = tensor
    return result


def same(ours: State, theirs: State) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("names", ["transformers4", "transformers5"])
def test_there_and_back_is_bit_equal(parts: Path, state: State, names: Any, tmp_path: Path) -> None:
    written = old_names(state) if names == "transformers4" else state
    torch.save(written, tmp_path / "wild.pth")
    bundle = load_checkpoint(tmp_path / "wild.pth", settings(parts))
    save_checkpoint(bundle, tmp_path / "ours", everything=True)
    again = load_checkpoint(tmp_path / "ours", settings(parts))
    export_pth(again, tmp_path / "back.pth", everything=True, names=names)
    same(torch.load(tmp_path / "back.pth", weights_only=True), dict(written))


def wrapped(state: State) -> dict[str, State]:
    return {"state_dict": state}


def in_parallel(state: State) -> State:
    return {f"module.{k}": v for k, v in state.items()}


def compiled_in_parallel(state: State) -> dict[str, Any]:
    return {"epoch": 3, "model_state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}}


def in_a_trainer(state: State) -> dict[str, State]:
    return {"state_dict": {"net." + k.replace("llm.", "llm.module.", 1): v for k, v in state.items()}}


def with_old_buffers(state: State) -> State:
    positions = {"text_encoder.embeddings.position_ids": torch.arange(512)[None]}
    prefix = "llm.base_model.model." if any("lora_" in k for k in state) else "llm."
    return {**state, **positions, f"{prefix}transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4)}


def with_old_norms(state: State) -> State:
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("text_encoder"):
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[name] = tensor
    return renamed


def with_old_peft(state: State) -> State:
    return {k.replace(".base_layer.", ".").replace(".default.", "."): v for k, v in state.items()}


def of_another_adapter(state: State) -> State:
    return {k.replace(".default.", ".surgical."): v for k, v in state.items()}


def without_the_tied_layer(state: State) -> State:
    return {k: v for k, v in state.items() if not k.endswith("lm_head.weight")}


@pytest.mark.parametrize(
    "how",
    [
        *(dict, wrapped, in_parallel, compiled_in_parallel, old_names, with_old_buffers, with_old_norms),
        *(with_old_peft, of_another_adapter, without_the_tied_layer, in_a_trainer),
    ],
)
def test_it_is_read_as_it_comes(parts: Path, state: State, how: Callable[[State], Any], tmp_path: Path) -> None:
    torch.save(how(state), tmp_path / "wild.pth")
    bundle = load_checkpoint(tmp_path / "wild.pth", settings(parts))
    same(dict(bundle.model.state_dict()), state)
    assert bundle.settings.lora_r == (4 if bundle.model.config.lora else 0)  # the rank is read off the file
    assert "tensors loaded" in bundle.report


def test_safetensors_are_read_as_well(parts: Path, state: State, tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in without_the_tied_layer(state).items()}, tmp_path / "wild.safetensors")
    same(dict(load_checkpoint(tmp_path / "wild.safetensors", settings(parts)).model.state_dict()), state)


def test_blip_rows_that_were_never_resized_grow_as_published(parts: Path, state: State, tmp_path: Path) -> None:
    name = "text_encoder.embeddings.word_embeddings.weight"
    torch.save({**state, name: state[name][:300]}, tmp_path / "wild.pth")
    bundle = load_checkpoint(tmp_path / "wild.pth", settings(parts))
    rows = bundle.model.state_dict()[name]
    assert torch.equal(rows[:300], state[name][:300])
    assert torch.equal(rows, resize_rows(state[name][:300], len(rows)))
    assert "grew from 300" in bundle.report


def test_a_file_of_trained_tensors_is_read_and_reported(parts: Path, tmp_path: Path) -> None:
    state = Published(parts, True).state_dict()
    torch.save({k: v for k, v in state.items() if "lora_" in k}, tmp_path / "wild.pth")
    bundle = load_checkpoint(tmp_path / "wild.pth", settings(parts))
    assert "12 tensors loaded (adapters 12)" in bundle.report
    assert "taken from the published parts" in bundle.report and "does not say their alpha" in bundle.report
    assert bundle.checkpoint_tensors == {k for k in state if "lora_" in k}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if not k.startswith("llm.")}, "required tensors"),
        (lambda s: {k: v for k, v in s.items() if ".h.1." not in k}, "required tensors"),
        (lambda s: {**s, "llm.lm_head.weight": s["llm.lm_head.weight"] + 1}, "differs from the word embedding"),
        (lambda s: {**s, "llm.transformer.h.2.ln_1.weight": torch.ones(32)}, "does not know 1 of its"),
        (lambda s: {**s, "classifier.weight": torch.ones(3)}, "does not know 1 of its"),
        (lambda s: {**s, "llm.transformer.wpe.weight": torch.ones(8, 32)}, "another shape for 1 of its"),
        (lambda s: {**s, "llm.transformer.wpe.weight": s["llm.transformer.wpe.weight"] * torch.nan}, "not finite"),
        (lambda s: {"state_dict": 3}, "must map parameter names to tensors"),
        (lambda s: {}, "must map parameter names to tensors"),
        (lambda s: {**s, **{f"module.{k}": v + 1 for k, v in s.items()}}, "two different tensors"),
        (lambda s: {k: (10 * v).to(torch.int8) for k, v in s.items()}, "torch.int8 where the model has weights"),
        (lambda s: {k: v.to(torch.float8_e4m3fn) for k, v in s.items()}, "it is quantized"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_refused(
    parts: Path, change: Callable[[State], Any], message: str, tmp_path: Path
) -> None:
    torch.save(change(dict(Published(parts, False).state_dict())), tmp_path / "wild.pth")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "wild.pth", settings(parts))


def test_adapters_with_a_hole_are_refused(parts: Path, tmp_path: Path) -> None:
    state = Published(parts, True).state_dict()
    torch.save({k: v for k, v in state.items() if "lora_" in k and "h.1.mlp" not in k}, tmp_path / "wild.pth")
    with pytest.raises(InputError, match="lacks 2 required tensors"):
        load_checkpoint(tmp_path / "wild.pth", settings(parts))


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_in_it_is_never_executed(parts: Path, tmp_path: Path) -> None:
    state: dict[str, Any] = {**Published(parts, False).state_dict(), "extra": Malicious(tmp_path / "owned")}
    torch.save(state, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "owned")))
    for name in ("zip", "old", "plain"):
        with pytest.raises(InputError, match="never executed") as refusal:
            load_checkpoint(tmp_path / f"{name}.pth", settings(parts))
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "owned").exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)  # the file would have done it
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("left", [0, 10, 0.3, 0.9, 0.999])
def test_a_file_cut_off_is_refused_in_one_sentence(parts: Path, state: State, left: float, tmp_path: Path) -> None:
    path = tmp_path / "wild.pth"
    torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if left < 1 else int(left)])
    with pytest.raises(InputError, match=r"wild\.pth") as refusal:
        load_checkpoint(path, settings(parts))
    assert "\n" not in str(refusal.value)


def test_a_run_that_froze_the_decoder_may_lack_it(parts: Path, tmp_path: Path) -> None:
    run = {**vars(settings(parts)), "lora_r": 0, "train_blip": True}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run))
    state = Published(parts, False).state_dict()
    torch.save({k: v for k, v in state.items() if k.startswith("text_encoder.")}, tmp_path / "best_model.pth")
    bundle = load_checkpoint(tmp_path / "best_model.pth", settings(parts))
    assert bundle.model.config.lora is None and all(n.startswith("text_encoder.") for n in bundle.checkpoint_tensors)


@pytest.mark.parametrize(
    ("run", "kept"),
    [
        ({"lora_r": 4}, "text_encoder.encoder.layer.0."),  # no adapters at all
        ({"lora_r": 4, "unfreeze_blip_last_n": 1}, "llm."),  # adapters without the layer trained beside them
        ({"full_finetune": True}, "llm.transformer.h.0."),
        ({"lora_r": 0, "mask": "causal"}, "llm.transformer.h.0."),  # written by hand; nothing would be trained
    ],
)
def test_a_file_without_a_tensor_that_its_run_trained_is_refused(
    parts: Path, run: dict[str, Any], kept: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**vars(settings(parts)), **run}))
    state = Published(parts, kept == "llm.").state_dict()
    torch.save({k: v for k, v in state.items() if k.startswith(kept)}, tmp_path / "best_model.pth")
    with pytest.raises(InputError, match="required tensors"):
        load_checkpoint(tmp_path / "best_model.pth", settings(parts))


def test_an_unrelated_config_file_is_named_in_the_error(parts: Path, tmp_path: Path) -> None:
    torch.save(Published(parts, True).state_dict(), tmp_path / "wild.pth")
    (tmp_path / "config.yaml").write_text("trainer: {devices: 4}")
    with pytest.raises(InputError, match=r"unknown key 'trainer'.*move wild\.pth to another folder"):
        load_checkpoint(tmp_path / "wild.pth", settings(parts))


def test_a_flag_that_is_wrong_is_not_blamed_on_a_file(parts: Path, tmp_path: Path) -> None:
    torch.save(Published(parts, True).state_dict(), tmp_path / "wild.pth")
    with pytest.raises(InputError, match="not 3") as refusal:
        load_checkpoint(tmp_path / "wild.pth", settings(parts, num_frames=3))
    assert "wild.pth" not in str(refusal.value)


def test_blips_word_embedding_is_refused_as_an_aligned_one(parts: Path, tmp_path: Path) -> None:
    state = Published(parts, True).state_dict()
    torch.save({**state, WORDS: state[WORDS][:300]}, tmp_path / "wild.pth")
    with_pieces = shutil.copytree(parts, tmp_path / "parts")
    train_tokenizer(["How many?"], vocab_size=290).save_pretrained(with_pieces / "text")
    with pytest.raises(InputError, match="BLIP's own word embedding of 300 rows"):
        load_checkpoint(tmp_path / "wild.pth", settings(with_pieces, text_embeddings="aligned"))


@pytest.mark.parametrize("embeddings", ["published", "aligned"])
@pytest.mark.parametrize("everything", [True, False])
def test_the_published_loader_reads_an_exported_file(
    parts: Path, embeddings: str, everything: bool, tmp_path: Path
) -> None:
    """That loader: the published parts, then ``load_state_dict(..., strict=False)``."""
    root = shutil.copytree(parts, tmp_path / "parts")
    train_tokenizer(["How many?"], vocab_size=290).save_pretrained(root / "text")
    ours = build_for_training(config(root, lora_r=4, text_embeddings=embeddings))
    randomize_trainable(ours.model)
    export_pth(ours, tmp_path / "best_model.pth", everything=everything, names="transformers5")
    theirs = Published(root, True, noise=0)
    left = theirs.load_state_dict(torch.load(tmp_path / "best_model.pth", weights_only=True), strict=False)
    assert not left.unexpected_keys
    same(dict(ours.model.state_dict()), dict(theirs.state_dict()))


@pytest.mark.slow
def test_the_published_evaluation_is_reproduced(parts: Path, data_flags: list[str], tmp_path: Path) -> None:
    """``eval`` with the published settings equals the published evaluation, written out one sequence at a time.

    The module has nothing of ours in it; a label's score is the mean of its tokens' log-probabilities under full
    attention, and frames are cropped. All 51 scores of 25 questions are equal, and so are the answers.
    """
    torch.manual_seed(3)  # of weights under which the answers differ between questions
    published = Published(parts, True, noise=0.3).eval()
    torch.save(published.state_dict(), tmp_path / "wild.pth")
    model = settings(parts, frame_fit="crop")
    flags = [f"--{n}-model={getattr(model, f'{n}_model')}" for n in ("video", "text", "decoder")]
    flags += ["--num-frames=4", "--frame-fit=crop", "--mask=bidirectional", "--score-norm=mean"]
    flags += ["--scores", "--max-samples=25", "--workers=0", f"--output={tmp_path / 'eval'}"]
    assert main(["eval", f"--checkpoint={tmp_path / 'wild.pth'}", *data_flags, *flags]) == 0
    records = [json.loads(line) for line in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()]
    assert len(records) == 25
    root = Path(next(f for f in data_flags if "image-root" in f).partition("=")[2])
    store = FrameStore(root, size=32, fit="crop", num_frames=4)
    prompts = load_checkpoint(tmp_path / "wild.pth", model).prompt_tokenizer()
    answers = []
    # Weights this large make float32's rounding visible, so the oracle is the module in float64, and the bound is the
    # error of the module's own float32 scores.
    exact_module = copy.deepcopy(published).double()
    for record in records:
        clip, question = store.clip(record["video"], record["frame"]), record["question"]
        sums = published_scores(exact_module, clip.double(), question, prompts)
        own_error = (published_scores(published, clip, question, prompts) - sums).abs().max()
        assert (torch.tensor(record["scores"]) - sums).abs().max() <= 2 * own_error + 1e-4
        means = sums / torch.tensor([len(ids) for ids in prompts.label_ids])
        answers.append(LABELS[int(means.argmax())])
    assert [record["prediction"] for record in records] == answers
    assert len(set(answers)) > 3  # so that equal answers mean something


def published_scores(published: Published, clip: torch.Tensor, question: str, prompts: PromptTokenizer) -> torch.Tensor:
    """The summed log-probability of each label, ``[51]``, one whole sequence at a time."""
    scores = []
    with torch.no_grad():
        video = published.visual_encoder(pixel_values=clip.unsqueeze(0)).last_hidden_state
        ids = prompts.prompt_ids(question)
        for answer in prompts.label_ids:
            whole = torch.tensor([[*ids, *answer]])
            states = published.text_encoder(
                input_ids=whole,
                attention_mask=torch.ones_like(whole),
                encoder_hidden_states=video,
                is_decoder=False,
            ).last_hidden_state
            steps = published.llm(inputs_embeds=states, use_cache=False).logits[0].log_softmax(-1)
            scores.append(sum(float(steps[len(ids) - 1 + i, token]) for i, token in enumerate(answer)))
    return torch.tensor(scores)


def test_scores_survive_the_way_through_the_published_form(parts: Path, tmp_path: Path) -> None:
    torch.save(Published(parts, True).state_dict(), tmp_path / "wild.pth")
    first = load_checkpoint(tmp_path / "wild.pth", settings(parts))
    export_pth(first, tmp_path / "trained.pth")
    second = load_checkpoint(tmp_path / "trained.pth", settings(parts))
    clips = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    scores = []
    for bundle in (first, second):
        trie = LabelTrie(bundle.prompt_tokenizer().label_ids)
        scores.append(score_labels(bundle.model, [[[1, 2, 3]]], bundle.model.encode_video(clips), trie, "prefix"))
    assert torch.equal(*scores)
