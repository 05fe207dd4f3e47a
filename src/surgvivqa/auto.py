"""The classes that users import, registered with Hugging Face's Auto classes.

After ``import surgvivqa.auto``, ``AutoConfig``, ``AutoModel`` and ``AutoProcessor`` load SurgViVQA models. ::

    from surgvivqa.auto import SurgViVQAModel, SurgViVQAProcessor

    model = SurgViVQAModel.from_pretrained("folder or hub name")
    processor = SurgViVQAProcessor.from_pretrained("folder or hub name")
    scores = model.score(**processor("frame.png", "How many tools are there?"))  # [1, C]
    print(processor.answers(scores))  # [[("2", 0.87)]]: label and probability
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from surgvivqa.checkpoints.pretrained import SurgViVQAModel
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.processing import SurgViVQAProcessor

__all__ = ["SurgViVQAConfig", "SurgViVQAModel", "SurgViVQAProcessor"]

AutoConfig.register(SurgViVQAConfig.model_type, SurgViVQAConfig)
AutoModel.register(SurgViVQAConfig, SurgViVQAModel)
AutoProcessor.register(SurgViVQAConfig, SurgViVQAProcessor)
