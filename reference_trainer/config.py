"""What a recipe says: one frozen tree, every key checked, overridable by `key.path=value`.

Paper sections are of SwiftBrush v2 (arXiv 2408.14176). Values have no defaults where the method depends on them: a recipe
says them, and a reader of the recipe need not read this file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sbv2bench.specs import PredictionType, fingerprint

Positive = Annotated[float, Field(ge=1e-30, le=1e30)]  # what float32 can hold and multiply
Scale = Annotated[float, Field(ge=0, le=1000)]  # of guidance
Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[Scale, Scale]
Beta = Annotated[float, Field(ge=0, lt=1)]
LONGEST = 99_999_999  # steps: the names of checkpoints have eight digits


class Frozen(BaseModel):
    """Base of every part of a recipe: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_truths(cls, tree: object) -> object:
        """YAML reads `yes` as true, and pydantic true as 1."""
        for name, value in tree.items() if isinstance(tree, dict) else ():
            field = cls.model_fields.get(str(name))
            if isinstance(value, bool) and field is not None and field.annotation is not bool:
                raise ValueError(f"{name}: found {str(value).lower()}, expected no truth value")
        return tree


class Lora(Frozen):
    """A low-rank adapter: W + (alpha / rank) B A on every module whose name ends in one of `targets`."""

    rank: int = Field(ge=1, le=2**14)
    alpha: Positive
    targets: tuple[str, ...] = Field(min_length=1)


class Student(Frozen):
    """The one-step generator. start: the model whose UNet it begins as; lora: None trains all weights (model A)."""

    start: str
    lora: Lora | None = None
    timestep: int = Field(default=999, ge=0, le=999)
    learning_rate: Positive


class LoraTeacher(Frozen):
    """The adapter on the frozen teacher that learns the score of the student's images."""

    lora: Lora
    learning_rate: Positive
    loss_weight: Literal["alpha_bar", "none"] = "alpha_bar"
    first_timestep: int = Field(default=0, ge=0, le=999)
    last_timestep: int = Field(default=999, ge=0, le=999)
    null_share: Share = 0.1
    steps_per_student_step: int = Field(default=1, ge=1, le=LONGEST)
    warmup_steps: int = Field(
        default=0, ge=0, le=LONGEST
    )  # LoRA-teacher steps before the student's first: our addition, 0 in the paper


class Vsd(Frozen):
    """Variational score distillation (equation 4).

    teacher_guidance_scale: a number, or a range that each step draws from. lora_teacher_guidance_scale: "same" is the
    paper's method. With equal scales the fixed point is the *unguided* teacher and the scale only amplifies the
    conditional part of the gradient; 4.5 on the frozen teacher alone is another algorithm (as in DMD), which aims at the
    over-saturated 4.5-guided teacher.
    """

    teacher_guidance_scale: Scale | Range
    lora_teacher_guidance_scale: Scale | Literal["same"]
    weight: Literal["sigma2", "dmd"] = "sigma2"
    first_timestep: int = Field(default=20, ge=0, le=999)
    last_timestep: int = Field(default=980, ge=0, le=999)


class ScoreLoss(Frozen):
    """max(0, threshold - cosine) of decoded student images and their captions, per sample (equation 5; HPS: section 8.1).

    scorer: an extractor id. share: of the samples that are scored, spread evenly. clamped: False is 1 - cosine (Table 6's
    naive loss). decoder: tiny (TAESD's part) or full (the teacher's own).
    """

    scorer: str
    threshold: float = Field(ge=-1, le=1)
    weight: Positive
    schedule: Literal["exponential", "linear", "constant"]
    share: Share = 1.0
    clamped: bool = True
    decoder: Literal["tiny", "full"] = "tiny"


class Regularisation(Frozen):
    """Image regularisation ("Ours*"). The paper gives neither loss nor weight: both kinds are our interpretation.

    paired (R1): the student's image of noise z against the teacher's deterministic sample from the same z (as DMD does).
    real (R2): the student's image of a noised real latent against that latent.
    """

    kind: Literal["paired", "real"]
    weight: Positive
    batch_size: int = Field(ge=1, le=2**20)  # pairs a step, besides the prompts' batch
    distance: Literal["lpips", "pixels", "latents"]
    pairs: int = Field(ge=1, le=10**8)
    images: str = ""  # real only: world:training, or a folder of pictures, each with its caption in a .txt of the same name
    teacher_steps: int = Field(default=50, ge=1)  # paired only
    teacher_guidance_scale: Scale = 3.0  # paired only


class Prompts(Frozen):
    """Where captions come from: a file (txt, jsonl, csv, parquet), hub:ORG/DATASET, or world:SPLIT of the mini world."""

    source: str
    column: str = "text"
    split: str = "train"  # of a hub dataset
    limit: int | None = Field(default=None, ge=1, le=2**40)  # the first so many


class Ema(Frozen):
    """Moving average of the trained weights: min(decay, (1 + step) / (10 + step)), diffusers' EMAModel."""

    decay: float = Field(ge=0, lt=1)


class Optimiser(Frozen):
    """AdamW for both networks; the learning rates are theirs."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    epsilon: Positive = 1e-8
    weight_decay: float = Field(default=1e-4, ge=0)
    gradient_clip: Positive = 1.0
    warmup_steps: int = Field(default=0, ge=0, le=LONGEST)
    final_learning_rate: Share = 1.0  # share of the rate that a cosine ends at; 1 is constant
    kind: Literal["adamw", "adamw8bit"] = "adamw"


class Measure(Frozen):
    """Evaluation in the loop by sbv2bench itself. Choose on a suite that nothing is reported on."""

    every: int = Field(ge=1)
    suite: str
    metrics: str = "fid,pr,clip"
    limit: int | None = Field(default=None, ge=2)


class Recipe(Frozen):
    """A whole training run."""

    name: str
    description: str = ""
    family: Literal["mini", "full", "local"]
    teacher: str
    prediction_type: PredictionType  # of the teacher: checked against its scheduler before anything is spent
    tiny_decoder: str = ""  # location of an AutoencoderTiny
    prompts: tuple[Prompts, ...] = Field(min_length=1)
    student: Student
    lora_teacher: LoraTeacher | None
    vsd: Vsd | None
    clip: ScoreLoss | None = None
    hps: ScoreLoss | None = None
    regularisation: Regularisation | None = None
    losses: dict[str, dict[str, object]] = {}  # by name, of files of terms/ or of `target: "module:Class"`: their settings
    ema: Ema | None
    optimiser: Optimiser = Optimiser()
    steps: int = Field(ge=1, le=LONGEST)
    batch_size: int = Field(ge=1, le=2**20)  # prompts a step, over all processes and micro-batches
    micro_batch_size: int | None = Field(default=None, ge=1)  # prompts a forward pass; None: all of a process at once
    precision: Literal["float32", "bfloat16"] = "float32"  # of the passes; weights that are trained are float32
    teacher_dtype: Literal["float32", "bfloat16"] = "float32"  # of the frozen base
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile of both UNets: minutes before the first step, then faster ones on a GPU
    ema_on_cpu: bool = False
    seed: int = Field(ge=0, lt=2**63)
    log_every: int = Field(default=50, ge=1)
    sample_every: int = Field(default=1000, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    export_every: int | None = Field(default=None, ge=1)  # steps between exports of a run that goes on; None: the last alone
    validation_prompts: tuple[str, ...] = ()  # captions whose pictures are made at every checkpoint
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] | None = None  # None: TensorBoard if it is installed
    skips_in_a_row: int = Field(default=5, ge=0)  # steps whose gradient is not a number before the run stops
    measure: Measure | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.vsd is None) != (self.lora_teacher is None):
            raise ValueError("vsd and lora_teacher: both or neither, each is nothing without the other")
        if self.vsd is None and self.regularisation is None:
            raise ValueError("vsd: null needs a regularisation, or there is nothing to train on")
        if self.vsd is None and (self.clip or self.hps or self.losses):
            raise ValueError("clip, hps and losses: expected none where vsd is null")
        if self.losses:
            from reference_trainer.terms import loss_class

            for name, settings in self.losses.items():
                loss_class(name, settings)
        needs = [name for name, loss in (("clip", self.clip), ("hps", self.hps)) if loss and loss.decoder == "tiny"]
        needs += ["regularisation"] if self.regularisation and self.regularisation.distance != "latents" else []
        if needs and not self.tiny_decoder:
            raise ValueError(f"tiny_decoder: {needs[0]} decodes with it, found none")
        for part in (self.vsd, self.lora_teacher):
            if part and part.first_timestep > part.last_timestep:
                raise ValueError("first_timestep: expected at most last_timestep")
        parts = self.name.split("/")
        if any(part in {"", ".", ".."} or not part.isprintable() or len(part.encode()) > 200 for part in parts):
            raise ValueError(f"name: found {self.name!r:.100}, expected words and single slashes: it is a folder below runs/")
        scale = self.vsd.teacher_guidance_scale if self.vsd else 1.0
        if isinstance(scale, tuple) and scale[0] > scale[1]:
            raise ValueError(f"vsd.teacher_guidance_scale: found {list(scale)}, expected the smaller one first")
        return self

    def identity(self) -> dict[str, object]:
        """JSON-ready, all that can change the trained weights; where logs, samples and checkpoints go is not in it."""
        remarks = {"name", "description", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "measure"}
        remarks |= {"export_every", "validation_prompts", "report_to"}
        # What is not used is not named: a recipe is what it was before these were.
        remarks |= {name for name in ("losses", "compile") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude=remarks | {"ema_on_cpu", "gradient_checkpointing", "skips_in_a_row"})

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the identity."""
        return fingerprint(self.identity())
