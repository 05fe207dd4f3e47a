"""Makes Hugging Face's Auto classes know SurgViVQA: ``import surgvivqa.auto``, then ``AutoModel.from_pretrained``."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from surgvivqa.checkpoints.pretrained import SurgViVQAModel
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.processing import SurgViVQAProcessor

__all__ = ["SurgViVQAConfig", "SurgViVQAModel", "SurgViVQAProcessor"]

AutoConfig.register(SurgViVQAConfig.model_type, SurgViVQAConfig)
AutoModel.register(SurgViVQAConfig, SurgViVQAModel)
AutoProcessor.register(SurgViVQAConfig, SurgViVQAProcessor)
