"""The options of the fine stage's attention, with the paper's (and DenseDiffusion's) values as defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from realignkit.contracts import Config

SizeTerm = Literal["area", "similarity", "none"]
ScoreTerm = Literal["likelihood", "none"]
Overlap = Literal["smaller", "union"]
Form = Literal["auto", "fast", "literal"]
MaskResize = Literal["nearest", "area"]
TimeScale = Literal["train", "start"]

DENSE_DIFFUSION_NAMES = {"creg": "cross_weight", "sreg": "self_weight", "sizereg": "size_weight"}
"""What DenseDiffusion's code calls options of ours."""


class ModulationConfig(Config):
    """How strongly, where and when attention is modulated (eqs. 7-10), and when the result counts.

    Frozen; unknown names are errors. Every field is one decision of the method's description.
    """

    cross_weight: float = Field(1.0, ge=0, le=10, description="w of lambda_t in cross-attention; 0 switches it off")
    self_weight: float = Field(0.3, ge=0, le=10, description="w of lambda_t in self-attention; 0 switches it off")
    text_weight: float = Field(
        0.0,
        ge=0,
        le=10,
        description="joint attention: w of lambda_t with which a phrase's text tokens attend to their own region",
    )
    power: float = Field(5.0, ge=0, le=50, description="p of lambda_t = w * (t / T)^p")
    share: float = Field(0.3, ge=0, le=1, description="share of the steps that run, from the first, that are modulated")
    time_scale: TimeScale = Field(
        "start",
        description="T of lambda_t with strength: the first timestep that runs, or T_train; without, always T_train",
    )
    clamp: bool = Field(
        False, description="keep lambda_t * S * (1 - B) in [0, 1], so that no similarity leaves the range of its row"
    )
    size_term: SizeTerm = Field("area", description="B: area fraction of the query's segment, similarity, or none (0)")
    size_weight: float = Field(1.0, ge=0, le=1, description="what B is multiplied by, 1 as in eqs. 8 and 10")
    score_term: ScoreTerm = Field(
        "likelihood", description="S: by the likelihood of the object, or none: 1 in certain and possible ones alike"
    )
    overlap: Overlap = Field("smaller", description="overlapping masks: the smaller one wins, or a pixel is in both")
    mask_resize: MaskResize = Field(
        "nearest", description="masks to attention resolution: nearest, or area (no object vanishes)"
    )
    outside_score: float = Field(
        1.0, ge=0, le=2, description="S outside all masks: 1 as in eq. 9; 0 leaves attention there as it is"
    )
    form: Form = Field("auto", description="the exact fast form, the literal one, or fast wherever it is exact")
    isolate_phrases: bool = Field(True, description="embed each local caption's tokens as if it stood alone")
    append_missing: bool = Field(True, description="append local captions that the prompt does not contain")
    separator: str = Field(", ", min_length=1, description="what stands between the prompt and appended captions")
    suppress_unlikely: bool = Field(False, description="push the tokens of unlikely objects down in their regions")
    mask_padding: bool = Field(
        False, description="hide the padding after the text's end token from modulated cross-attention"
    )
    verify: bool = Field(
        False,
        description="accept a refined image only if the tagger finds every certain object of the coarse one in it",
    )
    strength: float | None = Field(
        None, gt=0, le=1, description="start from the coarse image noised to this strength; none: from pure noise"
    )

    @model_serializer(mode="wrap")
    def _as_before_text_weight(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs that do without are the same as those from before there was one, and resume them.
        values: dict[str, Any] = serialize(self)
        if self.text_weight == 0:
            values.pop("text_weight", None)
        return values

    @model_validator(mode="before")
    @classmethod
    def _names_of_dense_diffusion(cls, values: dict[str, Any]) -> dict[str, Any]:
        for theirs, ours in DENSE_DIFFUSION_NAMES.items():
            if theirs in values:
                raise ValueError(f"DenseDiffusion's {theirs} is {ours} here")
        return values

    @model_validator(mode="after")
    def _fast_where_exact(self) -> ModulationConfig:
        if self.form == "fast":
            for name, value, default in (
                ("size_term", self.size_term == "similarity", "area"),
                ("overlap", self.overlap == "union", "smaller"),
                ("suppress_unlikely", self.suppress_unlikely, "False"),
            ):
                if value:
                    raise ValueError(f"form='fast' is not exact with this {name}: use form='auto' or {name}={default}")
        return self
