"""A reporting checklist with the items of CLAIM and TRIPOD+AI, filled from a run as far as a run can tell.

The items follow Tejani et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update,
Radiology: Artificial Intelligence 2024, and Collins et al., TRIPOD+AI statement, BMJ 2024. Their texts are described
here in other words; the published checklists are what a journal asks for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from surgvivqa.reporting import checklist_answers as answers
from surgvivqa.reporting.results import RunResults
from surgvivqa.reporting.tables import escape_markdown

TO_FILL = "To be filled by the authors."
SOURCES = (
    "Items: CLAIM 2024 update (Tejani et al., Radiology: Artificial Intelligence 2024) and TRIPOD+AI (Collins et al., "
    "BMJ 2024), described in other words. A journal asks for the published checklists."
)


@dataclass(frozen=True)
class ChecklistItem:
    """An item of the checklist.

    Attributes:
        section: the part of the paper.
        claim: its number in CLAIM; empty if CLAIM does not have it.
        tripod: its numbers in TRIPOD+AI; empty if TRIPOD+AI does not have it.
        heading: what it is about.
        asks: what a paper should say.
        answer: what the run says; None where the run cannot say it.
    """

    section: str
    claim: str
    tripod: str
    heading: str
    asks: str
    answer: str | None

    @property
    def is_filled(self) -> bool:
        """Whether the run says something about it."""
        return self.answer is not None


def build_checklist(results: RunResults) -> list[ChecklistItem]:
    """The checklist of an evaluated run, in the order of a paper."""
    return [
        ChecklistItem(section, claim, tripod, heading, asks, None if answer is None else answer(results))
        for section, claim, tripod, heading, asks, answer in _ITEMS
    ]


def format_checklist(items: Sequence[ChecklistItem], results: RunResults) -> str:
    """The checklist as Markdown, a table for each section."""
    filled = sum(item.is_filled for item in items)
    lines = [
        f"# Reporting checklist of {escape_markdown(results.name)}",
        "",
        f"{SOURCES} {filled} of {len(items)} items are filled from the run; check them, and fill the others.",
    ]
    section = None
    for item in items:
        if item.section != section:
            section = item.section
            lines += ["", f"## {section}", "", "| CLAIM | TRIPOD+AI | item | this run |", "| --- | --- | --- | --- |"]
        answer = f"*{TO_FILL}*" if item.answer is None else escape_markdown(item.answer)
        numbers = f"| {item.claim or '–'} | {item.tripod or '–'}"
        lines.append(f"{numbers} | **{item.heading}.** {escape_markdown(item.asks)} | {answer} |")
    return "\n".join(lines) + "\n"


_Answer = Callable[[RunResults], str | None] | None
_ITEMS: tuple[tuple[str, str, str, str, str, _Answer], ...] = (
    ("Title and abstract", "1", "1", "Title", "Names the method (deep learning) and the task.", None),
    ("Title and abstract", "2", "2", "Abstract", "Design, data, methods, results and conclusion in short.", None),
    ("Introduction", "3", "3a, 3b", "Background", "Clinical setting, intended use and users, earlier models.", None),
    ("Introduction", "", "3c", "Health inequalities", "Known inequalities between groups of patients.", None),
    ("Introduction", "4", "4", "Aims", "Aims and hypotheses, and whether a model is developed or evaluated.", None),
    ("Study design", "5", "5a", "Direction", "Whether data were collected before or for the study.", answers.direction),
    ("Study design", "6", "4", "Goal", "What kind of study it is: development, evaluation, both.", answers.goal),
    ("Data", "7", "5a, 6a", "Sources", "Where the images come from, sites, availability.", answers.data_sources),
    ("Data", "", "5b", "Dates", "When the data were collected.", None),
    ("Data", "8", "6b", "Inclusion", "Which videos, frames and questions are in, which are not.", answers.inclusion),
    ("Data", "9", "7", "Preprocessing", "How frames and questions become the model's input.", answers.preprocessing),
    ("Data", "10", "7", "Subsets", "Whether parts of images or of the data were chosen.", answers.subsets),
    ("Data", "11", "", "De-identification", "How patients' identity is protected.", answers.deidentification),
    ("Data", "12", "11", "Missing data", "How missing or damaged data were handled.", answers.missing_data),
    ("Data", "13", "", "Acquisition", "Cameras, protocols, frame rate.", answers.acquisition),
    ("Reference standard", "14", "8a", "Definition", "What counts as the true answer.", answers.reference_definition),
    (
        "Reference standard",
        "15",
        "8a",
        "Reason",
        "Why this reference was chosen, and its limits.",
        answers.label_limits,
    ),
    ("Reference standard", "16", "8b", "Source", "Who or what made the annotations.", answers.label_source),
    ("Reference standard", "17", "8b", "Test annotations", "How the test set was annotated.", answers.label_source),
    ("Reference standard", "18", "8b", "Variability", "Agreement between and within annotators.", answers.variability),
    (
        "Reference standard",
        "",
        "9",
        "Predictors",
        "What the model is given, and how it is measured.",
        answers.predictors,
    ),
    ("Partitions", "19", "12a", "Assignment", "How data were assigned to partitions, and sizes.", answers.partitions),
    ("Partitions", "20", "12a", "Level", "At which level the partitions are disjoint.", answers.disjoint),
    ("Partitions", "21", "10", "Sample size", "How the size of the test set was decided.", answers.sample_size),
    ("Partitions", "", "13", "Class imbalance", "How rare answers were handled.", answers.imbalance),
    ("Partitions", "", "16", "Differences", "How training and evaluation data differ.", None),
    ("Model", "22", "12c, 15", "Model", "Architecture, input and output.", answers.model),
    ("Model", "23", "12c", "Software", "Libraries with versions, hardware.", answers.software),
    ("Model", "24", "12c", "Initialisation", "Where the initial weights come from.", answers.initialisation),
    ("Training", "25", "12c, 21", "Training", "Optimiser, schedule, batches, steps, seed.", answers.training),
    ("Training", "26", "12c", "Selection", "How the final model was selected.", answers.selection),
    ("Training", "27", "12c", "Ensembles", "Whether models were combined.", answers.ensembles),
    ("Evaluation", "28", "12e", "Metrics", "Metrics with definitions.", answers.metrics),
    ("Evaluation", "29", "12e", "Uncertainty", "Intervals and tests, and their unit.", answers.uncertainty),
    ("Evaluation", "30", "12e", "Robustness", "Behaviour under changed input.", answers.robustness),
    (
        "Evaluation",
        "31",
        "",
        "Explanation",
        "How answers are explained, and whether that was checked.",
        answers.explanation,
    ),
    ("Evaluation", "", "12e", "Calibration", "Whether probabilities can be believed.", answers.calibration),
    ("Evaluation", "32", "12a", "Internal data", "Evaluation on data of the same source.", answers.internal),
    ("Evaluation", "33", "12a", "External data", "Evaluation on data of another source.", answers.external),
    ("Evaluation", "", "14", "Fairness", "Differences between groups of patients.", answers.fairness),
    ("Evaluation", "34", "18d", "Registration", "Registration of a trial or study.", None),
    ("Results", "35", "20a", "Flow", "Numbers of videos, frames and questions in and out.", answers.flow),
    ("Results", "36", "20b", "Patients", "Characteristics of the patients by partition.", answers.patients),
    ("Results", "37", "23a", "Performance", "All metrics with uncertainty on the test set.", answers.performance),
    ("Results", "38", "23a", "By group", "Performance for groups of questions.", answers.by_group),
    ("Results", "", "23a", "Baselines", "What is reached without looking at the frame.", answers.baselines),
    ("Results", "39", "23b", "Failures", "Where the model is wrong, and how.", answers.failures),
    ("Results", "", "22", "Full model", "Everything needed to use the model on new data.", answers.full_model),
    ("Results", "", "24", "Updating", "Whether the model was changed after evaluation.", None),
    ("Discussion", "40", "26", "Limitations", "Bias, uncertainty and generalisability.", answers.limitations),
    ("Discussion", "41", "25, 27", "Use", "What the results mean for practice; who may use the model.", answers.use),
    ("Other", "42", "18c", "Protocol", "Where the full protocol is.", answers.protocol),
    ("Other", "43", "18e, 18f", "Availability", "Software, model and data.", answers.availability),
    ("Other", "44", "18a", "Funding", "Who paid, and the role of the funders.", None),
    ("Other", "", "17", "Ethics", "Approval and consent, or why none is needed.", answers.ethics),
    ("Other", "", "18b", "Interests", "Conflicts of interest.", None),
    ("Other", "", "19", "Patients and public", "Whether they took part in the study.", None),
)
