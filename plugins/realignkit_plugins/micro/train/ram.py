"""RAM, in the embedded world."""

from __future__ import annotations

from realignkit_plugins.micro.train.recognize_anything import RecognizeAnythingRecipe


class RAMRecipe(RecognizeAnythingRecipe):
    """RAM's own class at small size."""

    name = architecture = "ram"


train = RAMRecipe.train
