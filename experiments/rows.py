"""The rows of docs/experiments.md: one setting each."""

from dataclasses import dataclass

STEPS = 500


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        group: what is compared.
        name: the setting.
        train: additional flags of ``train``.
        eval: additional flags of ``eval``.
        cache: whether video tokens are cached.
        per_frame: questions per frame in a step.
        lr: learning rate.
        data: ``synthetic``, ``real``, or ``black`` (black frames under the names of the real ones).
        steps: training steps.
        same_as: key of the row whose trained model is evaluated.
    """

    group: str
    name: str
    train: tuple[str, ...] = ()
    eval: tuple[str, ...] = ()
    cache: bool = True
    per_frame: int = 13
    lr: str = "2e-3"
    data: str = "synthetic"
    steps: int = STEPS
    same_as: str | None = None

    @property
    def key(self) -> str:
        """The row's name in results.jsonl."""
        return f"{self.group}/{self.name}"


ROWS = (
    Row("mask", "prefix"),
    Row("mask", "causal", ("--mask", "causal")),
    Row("mask", "bidirectional (the answer leaks)", ("--mask", "bidirectional")),
    Row("scoring", "sum", same_as="mask/prefix"),
    Row("scoring", "mean", eval=("--score-norm", "mean"), same_as="mask/prefix"),
    Row("frame fit", "squash", same_as="mask/prefix"),
    Row("frame fit", "crop", ("--frame-fit", "crop")),
    Row("frame fit", "pad", ("--frame-fit", "pad")),
    Row("clip", "repeat", same_as="mask/prefix"),
    Row("clip", "past", ("--clip-mode", "past")),
    Row("questions per frame", "1", per_frame=1),
    Row("questions per frame", "4", per_frame=4),
    Row("questions per frame", "16", per_frame=16),
    Row("questions per frame", "39", per_frame=39),
    Row("prompt", "simple", same_as="mask/prefix"),
    Row("prompt", "choices", ("--prompt-mode", "choices", "--max-length", "256")),
    Row("LoRA rank", "2", ("--lora-r", "2", "--lora-alpha", "8")),
    Row("LoRA rank", "8", same_as="mask/prefix"),
    Row("LoRA rank", "32", ("--lora-r", "32", "--lora-alpha", "128")),
    Row("what trains", "LoRA", same_as="mask/prefix"),
    Row("what trains", "LoRA (rate 1e-3)", lr="1e-3"),
    Row("what trains", "LoRA (rate 3e-4)", lr="3e-4"),
    Row("what trains", "LoRA, patch embedding (tokens not cached)", ("--train-video", "patch-embed"), cache=False),
    Row("what trains", "LoRA, last BLIP layer (rate 1e-3)", ("--unfreeze-blip-last-n", "1"), lr="1e-3"),
    Row("what trains", "BLIP and GPT-2, no LoRA (rate 3e-4)", ("--full-finetune", "--train-blip"), lr="3e-4"),
    *(
        Row("real frames", name + blind, flags, lr=rate, data=data, per_frame=15, steps=steps)
        for name, flags, rate, steps in (
            ("LoRA", (), "2e-3", 200),
            ("BLIP and GPT-2, no LoRA (rate 3e-4)", ("--full-finetune", "--train-blip"), "3e-4", 400),
        )
        # Black frames show what the same model gets from the questions alone.
        for blind, data in (("", "real"), (", black frames", "black"))
    ),
)
