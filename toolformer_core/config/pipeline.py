"""Every setting that decides a result, one frozen model per stage; `Runtime` decides none.

`*Config` enters fingerprints and cache keys; `Runtime` (runtime.py) never does.
Defaults here are neutral; complete runs (paper, demo, smoke) are in presets.py.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from toolformer_core.config.base import ModelConfig, PerTool, Settings, per_tool, refuse_repeats
from toolformer_core.config.finetune import FinetuneConfig as FinetuneConfig
from toolformer_core.config.runtime import Runtime as Runtime
from toolformer_core.config.tools import ToolsConfig

Probability = Annotated[float, Field(ge=0, le=1)]
Nats = Annotated[float, Field(ge=0, le=10)]
Seconds = Annotated[float, Field(gt=0, le=600)]
Count = Annotated[int, Field(ge=1, le=10_000, strict=True)]


class CorpusConfig(Settings):
    """Where the plain text C comes from and how it is cut into documents."""

    sources: tuple[str, ...] = Field(
        default=(),
        description="Paths, globs or fsspec URLs of JSONL, Parquet, text or MediaWiki dumps (also "
        "compressed); hf:NAME/CONFIG:SPLIT; package://PACKAGE/FILE; "
        "reasoning-gym:TASK?size=N&seed=S; one-step:?size=N&seed=S (word problems).",
    )
    max_documents: int | None = Field(
        default=None, ge=1, description="Most documents taken from each source; none: all."
    )
    sample_seed: int | None = Field(
        default=None,
        description="Take a uniform sample of max_documents with this seed; none: the first ones.",
    )
    min_document_chars: int = Field(
        default=40, ge=1, description="Shorter documents are left out and counted."
    )
    max_document_chars: int = Field(
        default=1200,
        ge=100,
        le=100_000,
        description="Longer documents are cut into passages at paragraph or sentence ends.",
    )
    max_row_bytes: int = Field(
        default=10_000_000, ge=100, description="Longer rows are quarantined, never loaded whole."
    )
    documents_per_shard: Count = Field(default=32, description="Documents in one shard.")


class ProposerConfig(Settings):
    """A served model that proposes calls in place of the base model; its address is in Runtime."""

    model: str | None = Field(
        default=None,
        description="Name by which an OpenAI-compatible completions server knows it; none: the "
        "base model proposes.",
    )
    document_start: str = Field(
        default="", description="What stands before every prompt, if the server adds no start token"
    )
    num_logprobs: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="Likeliest tokens asked for at a place; p(<API>) is 0 where it is not among "
        "them. vLLM allows 20 by default.",
    )
    scores: bool = Field(
        default=False,
        description="Let the server measure the losses too. It must serve the base model and give "
        "log-probabilities of prompts.",
    )


class SampleConfig(Settings):
    """Step 1, sampling API calls. Each number may be given per tool."""

    sampling_threshold: PerTool[Probability] = Field(
        default=0.05, description="tau_s: keep positions with p(<API>) above it (Appendix A)."
    )
    max_positions: PerTool[Count] = Field(
        default=5,
        description="k: most positions per document (Appendix A), or per window of one that is "
        "longer than the model's context.",
    )
    samples_per_position: PerTool[Count] = Field(
        default=5, description="m: calls sampled at each position (Appendix A)."
    )
    temperature: float = Field(
        default=1.0, ge=0, le=5, description="Of sampling; 0 is greedy. The paper is silent."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Nucleus of sampling. The paper is silent."
    )
    max_call_tokens: int = Field(
        default=32, ge=1, le=512, description="A sample that does not close by then is dropped."
    )
    force_tool_name: bool = Field(
        default=True, description="Write the tool's name and '(' after <API> instead of sampling."
    )
    look_ahead_guard: bool = Field(
        default=True,
        description="Skip positions where no call can be right, and drop calls whose argument "
        "first appears later in the text.",
    )
    prune_below: Nats | None = Field(
        default=None,
        description="Measure no loss, in nats, that only a filtering threshold below this could "
        "need: positions and calls that cannot reach it are skipped. Same calls are kept. None: "
        "the lowest threshold of the run, filter.threshold_sweep included.",
    )
    document_heuristic: PerTool[str] = Field(
        default="none",
        description="Which documents are tried: none (all), paper (Appendix A), or "
        "MODULE:FUNCTION of your own.",
    )
    seed: int = Field(default=0, ge=0, description="Of all sampling.")


class ExecuteConfig(Settings):
    """Step 2, executing API calls."""

    timeout_seconds: PerTool[Seconds] = Field(
        default={"default": 10.0, "QA": 60.0}, description="Per call; a model reads for QA."
    )
    max_argument_chars: int = Field(
        default=300, ge=1, description="Longer arguments are rejected unseen."
    )
    max_result_chars: int = Field(default=400, ge=1, description="Longer results are cut.")
    max_memory_mb: int = Field(
        default=2048, ge=64, description="Of a tool that runs in a process of its own."
    )
    outage_retries: int = Field(
        default=5,
        ge=0,
        le=20,
        description="Tries after the first to reach a tool, each after a longer wait; then the "
        "shard fails.",
    )
    max_failures_in_a_row: int = Field(
        default=10,
        ge=1,
        description="So many tries without an answer, and the shard fails: the tool is down.",
    )

    def of_tool(self, tool: str) -> "ToolExecuteConfig":
        """The settings for one tool.

        Raises: ConfigError if the time-out has neither a value for the tool nor a default.
        """
        return _resolved(ToolExecuteConfig, self, tool, "execute")


class ToolExecuteConfig(ExecuteConfig):
    """Step 2 for one tool."""

    timeout_seconds: Seconds


Control = Literal["wrong_result", "shuffled_result"]
TokenWeights = Literal["linear", "flat"]
PrefixPosition = Literal["before_text", "in_place"]


class ScoreConfig(Settings):
    """Step 3a, the losses; changing it costs forward passes."""

    num_scored_tokens: int = Field(
        default=5, ge=1, le=100, description="Tokens after i that count; the paper's weights: 5."
    )
    token_weights: TokenWeights = Field(
        default="linear",
        description="Of these tokens: falling as 1 - 0.2 t (linear, the paper), or alike (flat).",
    )
    prefix_position: PerTool[PrefixPosition] = Field(
        default="before_text",
        description="Where the call z stands: before x_1 (the paper, footnote 3), or in place, "
        "between x_i-1 and x_i, as in the texts that M is tuned on; there a text is read once for "
        "all its calls.",
    )
    prefix_separator: str = Field(
        default="\n",
        max_length=20,
        description="Between the prefix z and x_1; in place z is spaced as a call in a text. "
        "Paper: silent.",
    )
    controls: tuple[Control, ...] = Field(
        default=(),
        description="Losses with a result that is not the call's own: another call's "
        "(wrong_result), its own with the words or digits shuffled (shuffled_result). A call that "
        "does not beat each is dropped. One more forward pass per call and control.",
    )

    _unique = field_validator("controls")(refuse_repeats)


class FilterConfig(Settings):
    """Step 3b, the decision; it costs no forward pass, but below `prune_below` nothing is known."""

    filtering_threshold: PerTool[Nats] = Field(
        default=1.0, description="tau_f in nats: keep if L- minus L+ is at least this."
    )
    threshold_sweep: tuple[Nats, ...] = Field(
        default=(0.1, 0.2, 0.3, 0.5, 1.0, 2.0),
        description="Thresholds whose yield the index and the report show (paper, Table 2).",
    )


class AugmentConfig(Settings):
    """Step 4a, writing the kept calls into the texts."""

    max_examples_per_tool: int = Field(
        default=25_000, ge=1, description="Calls per tool in C*, best loss_reduction first (App. B)"
    )
    max_calls_per_document: Count = Field(
        default=10, description="Calls in one text, best loss_reduction first."
    )


class DecodeConfig(Settings):
    """Inference with calls (paper, section 2 "Inference" and section 4.2)."""

    call_top_k: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="k: a call starts when <API> is among the k most "
        "likely tokens; 1 is greedy, 0 forbids calls. None: as chosen on held-out texts after "
        "fine-tuning (1 where nothing was chosen). The paper: 10.",
    )
    call_threshold: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="In place of call_top_k: a call starts when p(<API>), all its spellings "
        "together, is at least this.",
    )
    max_calls: int = Field(default=1, ge=0, le=100, description="Calls per input (paper: 1).")
    max_call_tokens: int = Field(
        default=48, ge=4, le=512, description="A call without an arrow by then is taken back."
    )
    forced_tool: str | None = Field(
        default=None, description="Write this tool's name and '(' after <API>; none: M chooses."
    )
    max_new_tokens: int = Field(
        default=60,
        ge=1,
        le=10_000,
        description="Tokens that the model chooses per input, calls included, results not.",
    )
    max_words: int | None = Field(
        default=None, ge=1, description="The answer ends when it has more words than this."
    )
    temperature: float = Field(default=0.0, ge=0, le=5, description="0 is greedy (paper).")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus, if not greedy.")
    seed: int = Field(default=0, ge=0, description="Of the draws, if not greedy.")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        max_length=16,
        description="Texts that end the answer and are left out of it; none reaches over a call.",
    )

    @property
    def top_k(self) -> int:
        """The k in force: 1 where none is given or chosen."""
        return 1 if self.call_top_k is None else self.call_top_k

    @property
    def is_open(self) -> bool:
        """Whether it is still to be chosen when a call starts."""
        return self.call_top_k is None and self.call_threshold is None


Arm = Literal["base", "base_c", "disabled", "on", "wrong", "few_shot"]


class EvaluateConfig(Settings):
    """Which benchmarks and arms are run."""

    benchmarks: tuple[str, ...] = Field(
        default=("one_step", "sums", "dateset"),
        description="NAME for a generated set; NAME=PATH or NAME=hf:NAME/CONFIG:SPLIT.",
    )
    arms: tuple[Arm, ...] = Field(
        default=("base", "disabled", "on"),
        min_length=1,
        description="base: M. base_c: M fine-tuned on C without calls. disabled: M*, calls "
        "forbidden. on: M* with tools. wrong: M* with results of other calls. few_shot: M shown "
        "how tools are used, with tools.",
    )
    control: str | None = Field(
        default=None,
        description="Model of arm base_c, as toolformer finetune --without-calls leaves it; none: "
        "toolformer run trains it.",
    )
    few_shot_top_k: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="k of arm few_shot (paper: 10), which is not tuned to put <API> first.",
    )
    limit: int | None = Field(default=None, ge=1, description="Items per benchmark; none: all.")
    items_per_shard: Count = Field(default=128, description="Items answered by one task.")
    context_tokens: int = Field(
        default=1024, ge=2, description="Window of perplexity, in tokens; the paper does not say."
    )
    seed: int = Field(default=0, ge=0, description="Of the generated sets and the bootstrap.")
    decode: DecodeConfig = DecodeConfig()

    _unique = field_validator("benchmarks", "arms")(refuse_repeats)

    @model_validator(mode="after")
    def _wrong_results_come_from_on(self) -> "EvaluateConfig":
        if "wrong" in self.arms and "on" not in self.arms:
            raise ValueError("evaluate.arms: wrong takes the results of arm on; add on")
        return self


class SourceLicence(Settings):
    """Under which licence the texts of a source may be used."""

    source: str = Field(description="One of corpus.sources, spelled alike.")
    licence: str = Field(description="As the model card shall state it.")


class ToolSampleConfig(SampleConfig):
    """Step 1 for one tool; prune_below is the lowest filtering threshold of interest, in nats."""

    sampling_threshold: Probability
    max_positions: Count
    samples_per_position: Count
    document_heuristic: str


class ToolScoreConfig(ScoreConfig):
    """Step 3a for one tool."""

    prefix_position: PrefixPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSettings:
    """What the settings are for one tool: nothing in them is per tool any more."""

    sample: ToolSampleConfig
    score: ToolScoreConfig
    filtering_threshold: float  # tau_f, nats
    prune_below: float  # the lowest filtering threshold of interest, nats


class PipelineConfig(Settings):
    """A complete run: everything that decides what comes out."""

    corpus: CorpusConfig
    model: ModelConfig = ModelConfig()
    proposer: ProposerConfig = ProposerConfig()
    tools: ToolsConfig = ToolsConfig()
    sample: SampleConfig = SampleConfig()
    execute: ExecuteConfig = ExecuteConfig()
    score: ScoreConfig = ScoreConfig()
    filter: FilterConfig = FilterConfig()
    augment: AugmentConfig = AugmentConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    licences: tuple[SourceLicence, ...] = Field(
        default=(),
        description="Licences of sources, for the model card; of a source without one, that of "
        "the package it lies in.",
    )

    @property
    def chooses_calls(self) -> bool:
        """Whether it is chosen after fine-tuning when a call starts: M* has calls, nobody says."""
        return self.evaluate.decode.is_open and not self.finetune.without_calls

    def of_tool(self, tool: str) -> ToolSettings:
        """The settings for one tool, tau_f among them.

        Raises: ConfigError if one has neither a value for the tool nor a default.
        """
        sample, score = self.sample, self.score
        tau_f = per_tool(self.filter.filtering_threshold, tool, "filter.filtering_threshold")
        prune_below = sample.prune_below
        if prune_below is None:
            prune_below = min([tau_f, *self.filter.threshold_sweep])
        return ToolSettings(
            sample=_resolved(ToolSampleConfig, sample, tool, "sample", prune_below=prune_below),
            score=_resolved(ToolScoreConfig, score, tool, "score"),
            filtering_threshold=tau_f,
            prune_below=prune_below,
        )

    @model_validator(mode="after")
    def _thresholds_are_scored(self) -> "PipelineConfig":
        for tool in self.tools.enabled:
            threshold = self.of_tool(tool).filtering_threshold
            if threshold < (self.sample.prune_below or 0.0):
                raise ValueError(
                    f"filter.filtering_threshold {threshold} for {tool} is below "
                    f"sample.prune_below {self.sample.prune_below}: calls with so small a margin "
                    "were never sampled; lower sample.prune_below too"
                )
        return self


Resolved = TypeVar("Resolved", bound=Settings)


def _resolved(
    kind: type[Resolved],
    settings: Settings,
    tool: str,
    section: str,
    **values: Any,  # Any: settings of every kind
) -> Resolved:
    """The settings of a section for one tool, with some values in place of theirs."""
    own = {
        name: per_tool(value, tool, f"{section}.{name}")
        for name, value in settings
        if name in kind.__annotations__
    }
    return kind(**{**dict(settings), **own, **values})
