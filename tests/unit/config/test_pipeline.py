"""Edits by --set: what is read, what is refused, and with which message."""

import pytest

from tests.support.builders import pipeline_config
from toolformer_core.config.base import per_tool
from toolformer_core.config.overrides import edit, parse_config
from toolformer_core.config.pipeline import SampleConfig, ToolSampleConfig
from toolformer_core.config.presets import PRESETS
from toolformer_core.errors import ConfigError

BASE = pipeline_config(
    "sample.prune_below=0.1", "filter.filtering_threshold={default: 0.2, Calculator: 0.3}"
)


def refusal(*assignments):
    """The message of the refusal; it has one line."""
    with pytest.raises(ConfigError) as caught:
        edit(BASE, assignments)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("sample.seed=3", 3),
        ("sample.temperature=0", 0.0),
        ("sample.force_tool_name=false", False),
        ("finetune.learning_rate=1e-4", 1e-4),
        ("evaluate.limit=null", None),
        ("evaluate.arms=[base, 'on']", ("base", "on")),
        ("corpus.sources=[a.jsonl, 'hf:b/c:d']", ("a.jsonl", "hf:b/c:d")),
        ("evaluate.decode.call_top_k=3", 3),
        ("tools.wiki_search.max_snippet_chars=99", 99),
        ('score.prefix_separator=" "', " "),
        ("model.name_or_path=a=b", "a=b"),
        ("filter.filtering_threshold=0.5", 0.5),
        ("filter.filtering_threshold={default: 1, Calendar: 2}", {"default": 1, "Calendar": 2}),
    ],
)
def test_edit_value_is_read_as_yaml(assignment, value):
    config = edit(BASE, [assignment])
    for name in assignment.split("=")[0].split("."):
        config = getattr(config, name)
    assert config == value
    assert type(config) is type(value)


def test_edit_arm_on_is_the_arm_not_a_truth_value():
    assert edit(BASE, ["evaluate.arms=[base, on]"]).evaluate.arms == ("base", "on")


def test_edit_changes_nothing_else():
    edited = edit(BASE, ["sample.seed=3"])
    assert edited.sample.model_copy(update={"seed": BASE.sample.seed}) == BASE.sample
    assert edited.model_copy(update={"sample": BASE.sample}) == BASE


def test_edit_without_assignments_gives_an_equal_config():
    assert edit(BASE, []) == BASE


def test_edit_leaves_the_original_alone():
    edit(BASE, ["filter.filtering_threshold.Calculator=0.9"])
    assert BASE.filter.filtering_threshold == {"default": 0.2, "Calculator": 0.3}


def test_edit_later_assignment_wins():
    assert edit(BASE, ["sample.seed=1", "sample.seed=2"]).sample.seed == 2


def test_edit_number_of_one_tool_makes_a_table_with_the_old_default():
    config = pipeline_config("filter.filtering_threshold.Calculator=0.5")
    assert config.filter.filtering_threshold == {"default": 1.0, "Calculator": 0.5}


def test_edit_number_of_one_tool_joins_the_table():
    config = edit(BASE, ["filter.filtering_threshold.Calendar=0.9"])
    expected = {"default": 0.2, "Calculator": 0.3, "Calendar": 0.9}
    assert config.filter.filtering_threshold == expected


def test_edit_number_of_two_tools_in_turn_keeps_both():
    config = pipeline_config("sample.max_positions.Calculator=7", "sample.max_positions.Calendar=8")
    expected = {"default": 5, "Calculator": 7, "Calendar": 8}
    assert config.sample.max_positions == expected


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("sample.sed=3", "sample.sed"),
        ("smple.seed=3", "smple"),
        ("seed=3", "seed"),
        ("sample.seed.a.b=3", "sample.seed.a"),
        ("evaluate.decode.k=3", "evaluate.decode.k"),
        ("runtime.device=cuda", "runtime"),
        ("=3", ""),
    ],
)
def test_edit_unknown_key_is_named(assignment, key):
    assert refusal(assignment).startswith(f"unknown setting {key!r}; known here: ")


def test_edit_unknown_key_lists_the_known_ones():
    message = refusal("tools.wiki_search.snippet=3")
    assert message.endswith("known here: index, max_snippet_chars, passages")


def test_edit_without_equals_sign_shows_the_form():
    message = "--set 'sample.seed': expected key=value, as in sample.seed=1"
    assert refusal("sample.seed") == message


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sample.seed=-1", "sample.seed = -1: Input should be greater than or equal to 0"),
        ("sample.top_p=1.5", "sample.top_p = 1.5: Input should be less than or equal to 1"),
        ("sample.top_p=0", "sample.top_p = 0: Input should be greater than 0"),
        ("sample.seed=many", "sample.seed = 'many': Input should be a valid integer"),
        ("sample.temperature=.inf", "sample.temperature = inf: Input should be"),
        ("sample.temperature=.nan", "sample.temperature = nan: Input should be"),
        ("model.dtype=int8", "model.dtype = 'int8': Input should be 'auto', 'bfloat16' or"),
        ("evaluate.arms=[bse]", "evaluate.arms.0 = 'bse': Input should be 'base', 'base_c'"),
        ("sample=3", "sample = 3: Input should be"),
        ("sample.seed.a=3", "sample.seed = {"),
    ],
)
def test_edit_value_out_of_range_is_told_what_is_allowed(assignment, message):
    assert refusal(assignment).startswith(message)


@pytest.mark.parametrize("value", ["-0.1", "10.1", ".nan", "abc", "[1]"])
def test_edit_threshold_out_of_range_is_refused(value):
    assert refusal(f"filter.filtering_threshold={value}").startswith("filter.filtering_threshold")


@pytest.mark.parametrize("value", ["-0.1", "10.1", ".nan", "abc"])
def test_edit_threshold_of_one_tool_out_of_range_is_refused(value):
    message = refusal(f"filter.filtering_threshold.Calculator={value}")
    assert message.startswith("filter.filtering_threshold")


def test_edit_threshold_of_one_tool_out_of_range_names_tool_value_and_limit():
    message = refusal("filter.filtering_threshold.Calculator=50")
    assert message.startswith("filter.filtering_threshold.Calculator = 50: Input should be less")


def test_edit_threshold_out_of_range_names_the_key_as_typed():
    message = refusal("filter.filtering_threshold=50")
    assert message.startswith("filter.filtering_threshold = 50: Input should be less")


@pytest.mark.parametrize("value", ["[1", "@", "a: b: c", "'open", "%"])
def test_edit_value_that_is_no_yaml_is_refused(value):
    assert "score.prefix_separator" in refusal(f"score.prefix_separator={value}")


def test_edit_threshold_below_pruning_is_a_contradiction_that_names_the_cure():
    message = refusal("filter.filtering_threshold.Calculator=0.05")
    expected = "filter.filtering_threshold 0.05 for Calculator is below sample.prune_below 0.1: "
    assert message.startswith(expected)
    assert message.endswith("lower sample.prune_below too")


def test_edit_pruning_above_a_threshold_is_a_contradiction():
    assert "for Calendar is below sample.prune_below 0.25" in refusal("sample.prune_below=0.25")


def test_edit_threshold_and_pruning_lowered_together_are_accepted():
    assignments = ["filter.filtering_threshold=0.05", "sample.prune_below=0.05"]
    assert edit(BASE, assignments).filter.filtering_threshold == 0.05


def test_edit_number_of_a_tool_not_enabled_is_refused():
    message = refusal("sample.max_positions.Calculatr=3")
    assert message.startswith("unknown setting 'sample.max_positions.Calculatr'")
    assert message.endswith("enabled: Calculator, Calendar, WikiSearch")


def test_edit_threshold_table_without_the_tool_names_it():
    message = refusal("filter.filtering_threshold={Calculator: 1}")
    assert message.startswith("filter.filtering_threshold has no value for Calendar")
    assert message.endswith("add 'default'")


def test_edit_no_tools_is_refused():
    assert refusal("tools.enabled=[]").startswith("tools.enabled = []")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_parse_config_of_a_dump_gives_the_config(name):
    config = PRESETS[name]()
    assert parse_config(config.model_dump(mode="json")) == config


def test_parse_config_unknown_key_is_named():
    with pytest.raises(ConfigError, match=r"unknown setting 'corpus\.source'"):
        parse_config({"corpus": {"source": "a"}})


def test_parse_config_without_corpus_is_refused():
    with pytest.raises(ConfigError, match="corpus"):
        parse_config({})


def test_per_tool_value_of_the_tool_comes_before_the_default():
    table = {"default": 1, "Calculator": 2}
    assert per_tool(table, "Calculator", "k") == 2
    assert per_tool(table, "Calendar", "k") == 1


def test_per_tool_scalar_serves_every_tool():
    assert per_tool(0.5, "Calendar", "k") == 0.5


def test_per_tool_table_without_tool_or_default_raises():
    with pytest.raises(ConfigError, match=r"k has no value for Calendar, only \['Calculator'\]"):
        per_tool({"Calculator": 2}, "Calendar", "k")


def test_of_tool_resolves_every_number_of_the_tool():
    config = BASE.model_copy(
        update={
            "sample": SampleConfig(
                sampling_threshold={"default": 0.05, "Calculator": 0.0},
                max_positions={"default": 5, "Calculator": 20},
                samples_per_position=7,
                prune_below=0.2,
                seed=3,
            )
        }
    )
    assert config.of_tool("Calculator").sample == ToolSampleConfig(
        sampling_threshold=0.0,
        max_positions=20,
        samples_per_position=7,
        document_heuristic="none",
        prune_below=0.2,
        seed=3,
    )


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["sample.prune_below=0.15"], 0.15),
        (["sample.prune_below=null"], 0.1),
        (["sample.prune_below=null", "filter.threshold_sweep=[0.4]"], 0.3),
        (["sample.prune_below=null", "filter.threshold_sweep=[]"], 0.3),
    ],
)
def test_pruning_threshold_is_the_setting_or_the_lowest_of_the_run(assignments, expected):
    assert edit(BASE, assignments).of_tool("Calculator").prune_below == expected
