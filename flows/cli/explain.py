"""The command that explains one call: toolformer explain."""

from flows.starting import environment as settings
from flows.starting.inputs import build_config, build_runtime, print_json
from flows.starting.options import Called, Chosen, JsonOption, Method, ModelOption
from toolformer_core.config.runtime import Device


def explain(
    asked: Called,
    chosen: Chosen,
    place: Device,
    model: ModelOption = "",
    as_json: JsonOption = False,
) -> None:
    """Why one call is kept or dropped: its three losses, token by token."""
    settings.apply_defaults()
    from dataclasses import asdict

    from flows.cli.tables import print_explanation
    from flows.direct.explain import explain_text
    from toolformer_core.records import Document

    text = asked.text
    document = Document(document_id="text", text=text, url=None, date=asked.date, source="--text")
    config = build_config(Method(**dict(chosen), model=model))
    runtime = build_runtime(settings.home() / "explain", place)
    explained = explain_text(document, asked.at, asked.call, asked.result, config, runtime)
    print_json(asdict(explained)) if as_json else print_explanation(explained, text)
