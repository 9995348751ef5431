"""Calibrate: settings for a model, a corpus and its tools, and what they will cost."""

from dataclasses import asdict
from typing import Any

from prefect import flow

from tasks.calibrate import calibrate_documents, draw_documents
from tasks.prepare import prepare_model, prepare_tools
from tasks.report.artifacts import report_calibration
from tasks.running.policies import MODEL_RUNNER
from toolformer_core.calibration.calibrate import NotCalibrated, ToolCalibration, Yield, calibrated
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime


@flow(name="calibrate", flow_run_name="calibrate-{runtime.root.name}", task_runner=MODEL_RUNNER)
def calibrate(
    config: PipelineConfig, num_documents: int, target: float, runtime: Runtime
) -> tuple[dict[str, Any], PipelineConfig]:  # Any: nested figures
    """What was found per tool and for the corpus as a whole, and the calibrated configuration.

    Half of the documents decide, the other half tell how good the predictions are.
    """
    model = prepare_model(config.model, runtime)
    tools = prepare_tools(config.tools, runtime)
    documents, total = draw_documents(
        config.corpus, num_documents, config.sample.seed, runtime.root
    )
    found = [calibrate_documents(documents, tool, model, config, target, runtime) for tool in tools]
    good = [tool for tool in found if isinstance(tool, ToolCalibration)]
    report = {
        "corpus_documents": total,
        "sample_documents": documents.num_rows,
        "target": target,
        "tools": [_tool_report(tool, total) for tool in found],
        "hours": sum(tool.predicted.seconds for tool in good) * total / 3600,
        "megabytes": sum(tool.predicted.num_bytes for tool in good) * total / 1e6,
    }
    report_calibration(report)
    return report, calibrated(config, good)


def _tool_report(tool: ToolCalibration | NotCalibrated, total: int) -> dict[str, Any]:  # Any: above
    """Figures of one tool, for a document and for the corpus."""
    figures = asdict(tool)
    if isinstance(tool, ToolCalibration):
        figures["error"] = _error(tool.predicted, tool.held_out)
        figures["corpus"] = {
            "kept": tool.predicted.kept * total,
            "hours": tool.predicted.seconds * total / 3600,
            "megabytes": tool.predicted.num_bytes * total / 1e6,
        }
    return figures


def _error(predicted: Yield, held_out: Yield) -> dict[str, float | None]:
    """Prediction minus what the other half gave, relative to that; of shares, the difference."""
    found: dict[str, float | None] = {}
    for name in ("kept", "seconds", "num_bytes"):
        actual = getattr(held_out, name)
        found[name] = (getattr(predicted, name) - actual) / actual if actual else None
    found["share_good"] = (
        predicted.share_good - held_out.share_good
        if predicted.share_good is not None and held_out.share_good is not None
        else None
    )
    return found
