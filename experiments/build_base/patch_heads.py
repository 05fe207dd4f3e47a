"""Stage 1 of the base: classify what each patch shows, in the space of the word embeddings that name it.

Frozen random parts are of no use, and from questions alone a small model learns to use the video only after many hours.
The renderer knows what it drew, so masks and scene graphs stand in for large-scale pretraining: each patch learns to
lie near the words for its object's component, colour, type, location, verb and number, and predicts its object's
centre.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.build_base.source_frames import COLOR_WORDS, VERB_GROUP, VERB_WORDS
from experiments.build_base.source_questions import WORDINGS, Wording
from surgvivqa.data.vocabulary import COMPONENTS
from surgvivqa.model.modeling import SurgViVQAModel


@dataclass(frozen=True)
class WordGroup:
    """Mutually exclusive words: a patch has one of them or none.

    Attributes:
        tokens: token ids of the words in all their forms ``[K]``.
        classes: the class of each ``[K]``, from 1; 0 means none.
    """

    tokens: Tensor
    classes: Tensor


def word_groups(tokenizer: Any) -> list[WordGroup]:
    """The words of component, colour, type, row, column, number of objects of the component, and verb."""
    speakers = [Wording(n) for n in range(WORDINGS)]
    names = [{f" {s.component(c)}" for s in speakers} for c in COMPONENTS]
    kinds = [{f" {s.kind(k)}{plural}" for s in speakers for plural in ("", "s")} for k in ("anatomy", "instrument")]
    return [
        _group(tokenizer, names),
        _group(tokenizer, [{f" {c}"} for c in COLOR_WORDS]),
        _group(tokenizer, kinds),
        _group(tokenizer, [{" top"}, {" bottom"}]),
        _group(tokenizer, [{"left", " left"}, {"mid", " mid"}, {"right", " right"}]),
        _group(tokenizer, [{" 1", " one"}, {" 2", " two"}, {" 3", " three"}]),
        _group(tokenizer, [{f" {v}"} for v in VERB_WORDS]),
    ]


def _group(tokenizer: Any, words: Sequence[set[str]]) -> WordGroup:
    # A word of several tokens is represented by the last: "plate" tells "cystic_plate" from "cystic_duct". A token that
    # ends words of two classes, such as a plural's own token, is left out.
    last = [{tokenizer(form, add_special_tokens=False)["input_ids"][-1] for form in forms} for forms in words]
    own = [sorted(t for t in tokens if sum(t in other for other in last) == 1) for tokens in last]
    if not all(own):
        raise ValueError(f"The tokenizer has no distinct token for one of {words}.")
    classes = [number for number, tokens in enumerate(own, 1) for _ in tokens]
    return WordGroup(torch.tensor(list(itertools.chain(*own))), torch.tensor(classes))


class PatchHeads(nn.Module):
    """Heads that the base does not keep: a "none of these words" vector per group, and the object's centre."""

    def __init__(self, model: SurgViVQAModel, groups: Sequence[WordGroup]) -> None:
        super().__init__()
        width = model.config.video_config.hidden_size
        self.groups = groups
        self.nothing = nn.Parameter(torch.zeros(len(groups), width))
        self.centre = nn.Linear(width, 2)

    def forward(self, model: SurgViVQAModel, tokens: Tensor, classes: Tensor, offsets: Tensor, past: Tensor) -> Any:
        """Computes the loss, and for each patch with an object whether its component is right.

        Verbs are learned from ``past`` clips alone: in a repeated frame nothing moves.

        Args:
            model: whose word embeddings are the classifiers.
            tokens: video tokens ``[B, patches, hidden]``.
            classes: ``[B, groups, patches]``.
            offsets: ``[B, patches, 2]``.
            past: ``[B]`` bool.
        """
        embedding = model.text_encoder.embeddings.word_embeddings.weight
        flat = tokens.flatten(0, 1)
        loss, right = flat.new_zeros(()), torch.zeros(0)
        for number, group in enumerate(self.groups):
            words = functional.normalize(embedding[group.tokens], dim=-1)
            near = torch.cat([flat @ self.nothing[number : number + 1].T, flat @ words.T], dim=1)
            target = classes[:, number].flatten()
            # All forms of a word are trained: a class's probability is shared by its forms.
            forms = torch.cat([torch.zeros(1, dtype=torch.long), group.classes])
            same = forms[None, :] == target[:, None]
            share = (near.log_softmax(-1) * same).sum(1) / same.sum(1).clamp(min=1)
            count = torch.bincount(target, minlength=int(forms.max()) + 1).clamp(min=50).float()
            weight = count.rsqrt()[target]
            if number == VERB_GROUP:
                weight = weight * past.repeat_interleave(tokens.shape[1])
            loss = loss - (share * weight).sum() / weight.sum().clamp(min=1e-6)
            if number == 0:
                found = target > 0
                right = (forms[near.argmax(-1)][found] == target[found]).float()
        known = ~offsets[..., 0].isnan()
        loss = loss + 4 * functional.smooth_l1_loss(self.centre(tokens)[known], offsets[known], beta=0.1)
        return loss, right


def scale_word_embeddings(model: SurgViVQAModel, groups: Sequence[WordGroup]) -> None:
    """Copies the directions of the trained words into both embeddings, at twice the median length.

    So position embeddings do not dominate them, and the decoder answers in the space that patches lie in.
    """
    with torch.no_grad():
        words = model.text_encoder.embeddings.word_embeddings.weight
        output = model.decoder.transformer.wte.weight
        taught = torch.unique(torch.cat([g.tokens for g in groups]))
        direction = functional.normalize(words[taught], dim=-1)
        words[taught] = direction * 2 * words.norm(dim=-1).median()
        output[taught] = direction * 2 * output.norm(dim=-1).median()


def initialize_cross_attention(model: SurgViVQAModel, sharpness: float = 1.5) -> None:
    """Adds identities to cross-attention, so that a word attends to the patches that are similar to it."""
    with torch.no_grad():
        for layer in model.text_encoder.encoder.layer:
            attention = layer.crossattention.self
            identity = torch.eye(attention.query.weight.shape[0])
            attention.query.weight.add_(sharpness * identity)
            attention.key.weight.add_(sharpness * identity)
            attention.value.weight.add_(identity)
            layer.crossattention.output.dense.weight.add_(identity)
