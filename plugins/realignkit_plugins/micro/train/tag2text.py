"""Tag2Text, in the embedded world."""

from __future__ import annotations

from realignkit_plugins.micro.train.recognize_anything import RecognizeAnythingRecipe


class Tag2TextRecipe(RecognizeAnythingRecipe):
    """Tag2Text's own class at small size."""

    name = architecture = "tag2text"


train = Tag2TextRecipe.train
