"""What commands and forms may be given, each declared once.

A command takes models of options (Method, Place, ...); `drawn` makes an option of each field for
the command line, as Prefect makes a field of its forms. A field's description is its help.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import typer
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from toolformer_core.config.base import Settings
from toolformer_core.config.presets import PRESETS
from toolformer_core.errors import ConfigError

Options = TypeVar("Options", bound=Settings)


@dataclass(frozen=True, slots=True)
class OnCommandLine:
    """How a field is spelled there: its option, if not --FIELD-NAME; a list by commas."""

    option: str = ""
    commas: bool = False


class Chosen(Settings):
    """Settings to start from, and what differs from them."""

    preset: str = Field(
        default="demo",
        title="Preset",
        description=f"{', '.join(PRESETS)}: the settings to start from.",
        json_schema_extra={"enum": list(PRESETS)},
    )
    config_file: Annotated[str, OnCommandLine("--config")] = Field(
        default="",
        title="File of settings",
        description="YAML file of settings, in place of a preset.",
    )
    changes: Annotated[list[str], OnCommandLine("--set")] = Field(
        default=[],
        title="Single settings",
        description="One setting, as in filter.filtering_threshold.Calculator=0.3; repeatable.",
    )


class Method(Chosen):
    """What is done."""

    corpus: list[str] = Field(
        default=[],
        title="Texts",
        description="Path, glob, URL or hf: name, in place of the preset's texts; repeatable.",
    )
    tools: Annotated[list[str], OnCommandLine(commas=True)] = Field(
        default=[],
        title="Tools",
        description="As in Calculator,Calendar,WikiSearch,QA,MT,OCR; if none are given, those of "
        "the preset.",
    )
    model: str = Field(
        default="",
        title="Model",
        description="Folder, hub id or GGUF file of the base model, in place of the preset's.",
    )


class Varied(Settings):
    """What a sweep varies; all combinations are tried."""

    filtering_threshold: Annotated[
        list[Annotated[float, Field(ge=0, le=10)]], OnCommandLine(commas=True)
    ] = Field(default=[], title="tau_f", description="tau_f of all tools in nats, as in 0.3,0.5.")
    call_top_k: Annotated[
        list[Annotated[int, Field(ge=0, le=1000)]], OnCommandLine(commas=True)
    ] = Field(
        default=[],
        title="k of decoding",
        description="As in 0,1,3,10; with it models are trained and evaluated, without it calls "
        "are counted.",
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], OnCommandLine("--seed", commas=True)] = (
        Field(
            default=[],
            title="Seeds",
            description="Of sampling, fine-tuning and evaluation, as in 7,8.",
        )
    )
    models: Annotated[list[str], OnCommandLine(commas=True)] = Field(
        default=[], title="Base models", description="Folders or hub ids, as in one,two."
    )
    others: Annotated[list[str], OnCommandLine("--vary")] = Field(
        default=[],
        title="Any other setting",
        description="As in score.token_weights=linear|flat; repeatable.",
    )


class CallStart(Settings):
    """When a tuned model's calls start; what is not given is as in its toolformer.json."""

    call_top_k: int | None = Field(
        default=None, description="Start a call when <API> ranks among the top k."
    )
    call_threshold: float | None = Field(
        default=None, description="Start a call when p(<API>) is at least this."
    )
    disable_calls: bool = Field(default=False, description="Forbid calls.")


class Decoding(CallStart):
    """How a tuned model writes; what is not given is as in its toolformer.json."""

    max_calls: int | None = Field(default=None, description="Most calls per text.")
    max_new_tokens: int | None = Field(
        default=None, description="Tokens that the model writes, its calls included."
    )
    temperature: float | None = Field(default=None, description="0 is greedy.")
    top_p: float | None = Field(default=None, description="Nucleus, if not greedy.")
    seed: int | None = Field(default=None, description="Of the draws, if not greedy.")

    def given(self) -> dict[str, float | None]:
        """Fields of DecodeConfig; None where nothing was given."""
        most = 0 if self.disable_calls else self.max_calls
        return {**self.model_dump(exclude={"disable_calls"}), "max_calls": most}


class Asked(Settings):
    """What a tuned model is asked, beside which controls."""

    benchmark: list[str] = Field(
        default=[],
        description="NAME, NAME=PATH or NAME=hf:NAME/CONFIG:SPLIT; repeatable.",
    )
    arms: Annotated[list[str], OnCommandLine(commas=True)] = Field(
        default=["base", "disabled", "on"],
        description="Of base, base_c, disabled, on, wrong, few_shot; by commas.",
    )
    control: str = Field(
        default="", description="Model of arm base_c: see finetune --without-calls."
    )
    limit: int | None = Field(default=None, ge=1, description="Items per benchmark.")


class Called(Settings):
    """One call in one text."""

    text: str = Field(description="The text, without the call.")
    at: int = Field(ge=0, description="Character at which the call stands.")
    call: str = Field(description="As in 'Calculator(34 + 57)'.")
    result: str | None = Field(
        default=None, description="The tool's answer; without it the tool is run."
    )
    date: str | None = Field(default=None, description="The text's date, YYYY-MM-DD.")


class Launch(Settings):
    """What starts the processes that train, if not this one trains alone."""

    launcher: str = Field(
        default="", description="accelerate: train in several processes, on several GPUs."
    )
    launcher_config: Annotated[str, OnCommandLine("--config")] = Field(
        default="", description="YAML file of the launcher: how many, FSDP ..."
    )


class Forecast(Settings):
    """A corpus, and what it will be annotated on."""

    documents: float = Field(ge=1, description="How many, as in 1e9.")
    device: str | None = Field(
        default=None,
        description="What it shall run on: h200 or another name that is known, or a file of "
        "figures by python -m tests.bench.device; none: what was measured on.",
    )
    run: Annotated[Path | None, OnCommandLine("--from")] = Field(
        default=None,
        description="Output folder of a finished, smaller run; its settings, unless --config",
    )
    calibration: Path | None = Field(
        default=None, description="What toolformer calibrate --json printed, in a file."
    )
    measured_on: str | None = Field(
        default=None,
        description="Device that the run or the calibration was made on; none: two CPU cores in "
        "the arithmetic that model.dtype takes here.",
    )
    parameters: float | None = Field(
        default=None,
        ge=1,
        description="Of the model, as in 6.7e9; none: those of the one measured.",
    )
    days: float = Field(
        default=7.0, ge=0.01, description="In how many days annotation shall be done."
    )


OutOption = Annotated[Path | None, typer.Option("--out", help="Output folder.")]
ChangesOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, as in finetune.seed=1; repeatable."),
]
UpdateOption = Annotated[
    bool, typer.Option("--update", help="Go on in a folder that holds another configuration.")
]
AddOption = Annotated[
    bool, typer.Option("--add", help="Keep the folder's documents and add those that are new.")
]
ReplayOption = Annotated[
    Path | None,
    typer.Option(
        "--replay", help="cassette.parquet of an earlier run: its answers replace the tools."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
RunOption = Annotated[Path, typer.Option("--out", help="Output folder of a run.")]
TunedOption = Annotated[Path, typer.Option("--model", help="Folder of a tuned model.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="Folder, hub id or GGUF file, in place of the preset's.")
]
ToolsOption = Annotated[
    str, typer.Option("--tools", help="Tool names, separated by commas.", show_default=False)
]


def drawn(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of the models of options that it takes."""
    hints = get_type_hints(command, include_extras=True)
    models: dict[str, type[Settings]] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and issubclass(kind, Settings):
            models[parameter.name] = kind
            options += [_option(name, field) for name, field in kind.model_fields.items()]
        else:
            # Required ones may stand behind others: typer passes all by name.
            options.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def with_options(**given: Any) -> None:  # Any: options of every kind
        made = {
            name: read_options(kind, {field: given.pop(field) for field in kind.model_fields})
            for name, kind in models.items()
        }
        command(**given, **made)

    with_options.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # a function has it
    with_options.__annotations__ = {one.name: one.annotation for one in options}
    return with_options


def read_options(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """A model of options from the command line's values; None is what was not given.

    Raises: ConfigError naming the option, its value and what is allowed.
    """
    values = {}
    for name, value in given.items():
        if value is not None:
            commas = _spelling(kind.model_fields[name]).commas
            values[name] = [part.strip() for part in value.split(",")] if commas else value
    try:
        return kind(**values)
    except ValidationError as error:
        detail = error.errors()[0]
        option = _option_name(str(detail["loc"][0]), kind.model_fields[str(detail["loc"][0])])
        raise ConfigError(f"{option} {detail['input']!r}: {detail['msg']}") from error


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """The option of a field, as typer reads it from a signature."""
    kind: Any = field.annotation
    default: Any = inspect.Parameter.empty if field.is_required() else field.get_default()
    shown = None
    if _spelling(field).commas:
        shown = ",".join(map(str, default)) or None
        kind, default = str | None, None
    elif get_origin(kind) is list or default == "":
        kind, default = kind | None, None
    told = typer.Option(
        _option_name(name, field), help=field.description, show_default=shown or default is not None
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, told],
    )


def _option_name(name: str, field: FieldInfo) -> str:
    return _spelling(field).option or f"--{name.replace('_', '-')}"


def _spelling(field: FieldInfo) -> OnCommandLine:
    found = (one for one in field.metadata if isinstance(one, OnCommandLine))
    return next(found, OnCommandLine())
