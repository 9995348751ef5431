"""Fine-tuning as a job: read the shards, train; in this process or in several of accelerate's.

`launch_job` writes the job to a file and has `accelerate launch` start this module on it. The main
process of those tells its figures on standard output, one JSON object per line, and leaves its
result beside the job.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter

from toolformer_core import errors
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.errors import ToolformerError
from toolformer_core.finetune import FinetuneResult, finetune_model
from toolformer_core.models import ModelRef
from toolformer_core.progress import show_lines
from toolformer_core.records import AugmentedDocument, Document
from toolformer_core.shards import ShardRef, read_shard
from toolformer_core.training.examples import plain_texts
from toolformer_core.training.steps import Report

logger = logging.getLogger(__name__)

_FIGURES = '{"step":'


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneJob:
    """What is trained on what; `documents` is C, of which only plain_text_share makes use."""

    augmented: tuple[ShardRef, ...]
    documents: tuple[ShardRef, ...]
    base: ModelRef
    config: FinetuneConfig
    folder: Path
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    """How a launched job ended: a result, or the name and message of one of our errors."""

    result: FinetuneResult | None = None
    error: str = ""
    message: str = ""


JOB = TypeAdapter(FinetuneJob)
ENDING = TypeAdapter(_Ending)


def run_job(job: FinetuneJob, report: Report | None = None) -> FinetuneResult:
    """Fine-tune, in this process or as one of several."""
    augmented = [row for ref in job.augmented for row in read_shard(ref, AugmentedDocument)]
    documents = (row for ref in job.documents for row in read_shard(ref, Document))
    plain = plain_texts(augmented, documents, job.config)
    return finetune_model(
        augmented, job.base, job.config, job.folder, job.device, report, plain=plain
    )


def launch_job(job: FinetuneJob, accelerate_config: Path, report: Report | None) -> FinetuneResult:
    """Fine-tune in the processes that accelerate starts with its own configuration file.

    Raises: the error of the main process, if it is one of ours; ToolformerError if the processes
    ended without a result.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    job_file, ending_file = job.folder / "job.json", job.folder / "ending.json"
    job_file.write_bytes(JOB.dump_json(job))
    ending_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(accelerate_config), "-m", __name__, str(job_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            _pass_on(child.stdout, report)
        finally:
            child.terminate()  # where it has ended this does nothing
    if not ending_file.is_file():
        raise ToolformerError(
            f"accelerate launch --config_file {accelerate_config} ended with exit code "
            f"{child.returncode} and no model; what it said stands above"
        )
    ending = ENDING.validate_json(ending_file.read_bytes())
    if ending.result is None:
        raise getattr(errors, ending.error)(ending.message)
    return ending.result


def _pass_on(lines: Iterable[str], report: Report | None) -> None:
    """Figures to the report, everything else to the log."""
    for line in lines:
        if not line.startswith(_FIGURES):
            logger.info("%s", line.rstrip())
        elif report is not None:
            told = json.loads(line)
            report(told["step"], told["figures"])


def _tell(step: int, figures: Mapping[str, float]) -> None:
    sys.stdout.write(f"{json.dumps({'step': step, 'figures': dict(figures)})}\n")
    sys.stdout.flush()


def main(job_file: Path) -> None:
    """Run the job of a file as one of accelerate's processes."""
    show_lines()
    job = JOB.validate_json(job_file.read_bytes())
    try:
        ending = _Ending(result=run_job(job, _tell))
    except ToolformerError as error:
        ending = _Ending(error=type(error).__name__, message=str(error))
    is_first = True
    if torch.distributed.is_initialized():
        is_first = torch.distributed.get_rank() == 0
        torch.distributed.destroy_process_group()
    if is_first:
        (job_file.parent / "ending.json").write_bytes(ENDING.dump_json(ending))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
