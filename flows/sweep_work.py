"""The stages of a sweep's cells, each done once for what it depends on.

A stage that is cached still costs half a second, its flow run and its records: of many cells that
is many minutes. So work that two cells share is not even asked for twice. What two sweeps share is
in the cache of the tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, cast

from flows._stage import Annotated
from flows.augment import augment
from flows.call_rule import call_rule
from flows.corpus import corpus
from flows.evaluate import Contestants, control_contestant, evaluate
from flows.execute import execute
from flows.filter import filter_scored, score
from flows.finetune import finetune
from flows.sample import sample
from tasks.loaded_tools import ToolRef
from tasks.prepare import prepare_model, prepare_tools
from tasks.sweep import count_kept, count_parameters
from tasks.tracking.runs import track_call_rule
from toolformer_core.call_rule import CallChoice
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.config.pipeline import Arm, ExecuteConfig, PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.evaluate import CALLING_ARMS, arm_decoding
from toolformer_core.finetune import FinetuneResult
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef
from toolformer_core.shards import read_manifest

_ARM_GROUPS: tuple[tuple[Arm, ...], ...] = (
    ("base",),
    ("base_c",),
    ("disabled",),
    ("on", "wrong"),  # wrong gives the results of on
    ("few_shot",),
)
"""Arms that depend on the same models and settings."""

Result = TypeVar("Result")


@dataclass(slots=True)
class Tally:
    """How often a stage was wanted and done, and how many of its shards were there already."""

    wanted: int = 0
    done: int = 0
    shards: int = 0
    shards_cached: int = 0


class SweepWork:
    """All work of a sweep."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._done: dict[str, object] = {}
        self._tallies: dict[str, Tally] = {}
        self.folders: set[Path] = set()  # of the stages and models that it made or found

    def tallies(self) -> dict[str, dict[str, int]]:
        """Per stage, what was wanted, done, and there already."""
        return {stage: asdict(tally) for stage, tally in self._tallies.items()}

    def annotate(self, config: PipelineConfig) -> Annotated:
        """Corpus to losses."""
        model = self._once(
            ["model", config.model], lambda: prepare_model(config.model, self.runtime)
        )
        tools = self._once(
            ["tools", config.tools], lambda: prepare_tools(config.tools, self.runtime)
        )
        documents, _ = self._stage(
            "corpus", [config.corpus], lambda: corpus(config.corpus, self.runtime)
        )
        # Losses that no threshold of the sweep could need are left out while sampling, too.
        settings = [
            config.proposer,
            config.score,
            [config.of_tool(tool.name).sample for tool in tools],
        ]
        shared = [model, tools, str(documents), settings]
        proposed = self._stage(
            "sample", shared, lambda: sample(documents, tools, model, config, self.runtime)
        )
        executed = self._stage(
            "execute",
            [_named(proposed), config.execute],
            lambda: execute(proposed, documents, tools, config.execute, self.runtime),
        )
        scored = self._stage(
            "score",
            [shared, _named(executed)],
            lambda: score(executed, documents, tools, model, config, self.runtime),
        )
        return Annotated(model=model, tools=tools, documents=documents, scored=scored)

    def count(self, annotated: Annotated, config: PipelineConfig) -> dict[str, dict[str, int]]:
        """Calls kept per tool: see count_kept."""
        # It holds the threshold of every cell: one reading serves them all.
        thresholds = config.filter.threshold_sweep
        counts = self._once(
            ["count", _named(annotated.scored), thresholds],
            lambda: count_kept(annotated.scored, thresholds),
        )
        return {
            tool: by_threshold[config.of_tool(tool).filtering_threshold]
            for tool, by_threshold in counts.items()
        }

    def size(self, model: ModelRef) -> int | None:
        """See count_parameters."""
        return self._once(["size", model], lambda: count_parameters(model))

    def augment(self, annotated: Annotated, config: PipelineConfig) -> Path:
        """The manifest of C*."""
        kept = self._stage(
            "filter",
            [_named(annotated.scored), config.filter.filtering_threshold],
            lambda: filter_scored(annotated.scored, annotated.tools, config, self.runtime),
        )
        [augmented] = self._stage(
            "augment",
            [_named(kept), str(annotated.documents), config.augment],
            lambda: [augment(kept, annotated.documents, config.augment, self.runtime)],
        )
        return augmented

    def finetune(
        self, annotated: Annotated, augmented: Path, config: FinetuneConfig, tracking: str | None
    ) -> FinetuneResult:
        """M*; its curves go to the first run, `tracking`, that wants it."""

        def train() -> FinetuneResult:
            there = set(self.runtime.root.glob("finetune/all/*/model"))
            tuned = finetune(
                augmented, annotated.documents, annotated.model, config, self.runtime, tracking
            )
            self._add("finetune", 1, Path(tuned.model.path) in there)
            self.folders.add(Path(tuned.model.path).parent)
            return tuned

        self._tally("finetune").wanted += 1
        inputs = ["finetune", str(augmented), str(annotated.documents), annotated.model, config]
        return self._once(inputs, train)

    def choose_calls(
        self,
        annotated: Annotated,
        augmented: Path,
        tuned: ModelRef,
        config: PipelineConfig,
        tracking: str,
    ) -> CallChoice | None:
        """When the calls of M* start; None where the cell says it."""
        if not config.chooses_calls:
            return None
        documents, settings = annotated.documents, config.finetune
        choice = self._once(
            ["call_rule", str(augmented), str(documents), tuned, settings],
            lambda: call_rule(augmented, documents, tuned, settings, self.runtime),
        )
        track_call_rule(tracking, choice, self.runtime)
        return choice

    def control(
        self, annotated: Annotated, augmented: Path, config: PipelineConfig
    ) -> ModelRef | None:
        """The model of arm base_c: see control_contestant."""
        return control_contestant(
            config,
            lambda named: self._once(["model", named], lambda: prepare_model(named, self.runtime)),
            lambda plain: self.finetune(annotated, augmented, plain, None),
        )

    def evaluate(
        self, models: Contestants, tools: list[ToolRef], config: PipelineConfig
    ) -> list[Path]:
        """The manifests of answered items: arms that do not call are the same for every k."""
        manifests = []
        for group in _ARM_GROUPS:
            arms = tuple(arm for arm in group if arm in config.evaluate.arms)
            if arms:
                manifests += self._answers(arms, models, tools, config)
        return manifests

    def _answers(
        self,
        arms: tuple[Arm, ...],
        models: Contestants,
        tools: list[ToolRef],
        config: PipelineConfig,
    ) -> list[Path]:
        calls = arms[0] in CALLING_ARMS
        given = config.evaluate
        decode = arm_decoding(arms[0], given.decode, given.few_shot_top_k)
        chosen = given.model_copy(update={"arms": arms, "decode": decode})
        own_tools, run = (tools, config.execute) if calls else ([], ExecuteConfig())
        return self._stage(
            "evaluate",
            [[models.of(arm) for arm in arms], own_tools, chosen, run],
            lambda: evaluate(models, own_tools, chosen, run, self.runtime)[0],
        )

    def _stage(
        self, stage: str, depends: Sequence[object], make: Callable[[], list[Path]]
    ) -> list[Path]:
        """The manifests of a stage, whose shards are counted when it is done."""

        def done() -> list[Path]:
            manifests = make()
            self.folders.update(manifest.parent for manifest in manifests)
            refs = [read_manifest(manifest) for manifest in manifests]
            self._add(
                stage, sum(len(ref.shards) for ref in refs), sum(ref.num_cached for ref in refs)
            )
            return manifests

        self._tally(stage).wanted += 1
        return self._once([stage, *depends], done)

    def _once(self, depends: Sequence[object], make: Callable[[], Result]) -> Result:
        """What `make` returns, made once for the content of `depends`."""
        key = fingerprint(depends)
        if key not in self._done:
            self._done[key] = make()
        return cast(Result, self._done[key])

    def _tally(self, stage: str) -> Tally:
        return self._tallies.setdefault(stage, Tally())

    def _add(self, stage: str, shards: int, shards_cached: int) -> None:
        tally = self._tally(stage)
        tally.done += 1
        tally.shards += shards
        tally.shards_cached += shards_cached


def _named(manifests: Sequence[Path]) -> list[str]:
    """What stands for stages in a key: their folders are named by their content."""
    return [str(manifest) for manifest in manifests]
