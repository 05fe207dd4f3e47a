"""SurgViVQA on SSG-QA: fine-tuning and closed-set evaluation."""

__version__ = "0.1.0"
