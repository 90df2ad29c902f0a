"""BLIP-2 by its authors' package, salesforce-lavis."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from realignkit.isolation import IsolatedVQA
from realignkit_plugins.isolated import PYTHON, TORCH


class LavisBLIP2(IsolatedVQA):
    """BLIP-2's answers to questions, by the package salesforce-lavis.

    With the template "a photo of" it goes on with a caption, whatever is asked.
    """

    environment = "lavis"
    python = PYTHON
    requires = (*TORCH, "salesforce-lavis==1.0.2", "spacy==3.7.5", "thinc==8.2.4")
    program = Path(__file__).with_name("lavis_program.py")

    class Options(IsolatedVQA.Options):
        """Options of :class:`LavisBLIP2`."""

        model: Literal["blip2_opt", "blip2_t5"] = Field("blip2_opt", description="the package's name of the model")
        model_type: str = Field("pretrain_opt2.7b", description="the package's name of the weights, which it downloads")
        template: str = Field("Question: {} Answer:", description="what a question is put into")
        device: str = Field("cpu", description="there")
