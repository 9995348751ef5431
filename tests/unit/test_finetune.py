"""Fine-tuning: the steps, what is measured on held-out texts, checkpoints, LoRA, resuming."""

import dataclasses
import itertools
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TrainerState, TrainingArguments

from tasks.finetune import model_is_intact
from tests.support.builders import document, filter_decision
from toolformer_core import finetune
from toolformer_core.augment import insert_calls
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.errors import ConfigError, CorpusError
from toolformer_core.finetune import finetune_model, newest_checkpoint
from toolformer_core.models import ModelRef, folder_digest
from toolformer_core.training import loss as training_loss
from toolformer_core.training.examples import split_documents, training_example, training_rows
from toolformer_core.training.steps import COMPLETE, _Checkpoints, is_exhausted
from toolformer_core.transformers_lm.loading import load_model


@pytest.fixture(scope="module")
def base(tiny_llama_folder):
    digest = folder_digest(tiny_llama_folder, "float32")
    return ModelRef(path=str(tiny_llama_folder), digest=digest, dtype="float32")


def documents(count=12):
    """Sums with a call, in texts of unequal length."""
    for n in range(count):
        total = f"{n} + {n + 5}"
        text = f"Note: {n} and {n + 5} are {2 * n + 5}." + " It is late." * (n % 4)
        call = filter_decision(
            char_offset=text.index(" are") + 4, argument=total, result=str(2 * n + 5)
        )
        yield insert_calls(document(document_id=f"document-{n}", text=text), [call])


def config(**settings):
    defaults = {
        "learning_rate": 1e-3,
        "num_steps": 6,
        "batch_size": 4,
        "micro_batch_size": 4,
        "max_sequence_tokens": 64,
        "eval_every_steps": 2,
        "dev_fraction": 0.2,
        "seed": 3,
    }
    return FinetuneConfig(**{**defaults, **settings})


def tune(base, folder, report=None, **settings):
    return finetune_model(list(documents()), base, config(**settings), folder, "cpu", report)


def weights(result):
    return load_file(f"{result.model.path}/model.safetensors")


def assert_same_weights(one, other):
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.fixture(scope="module")
def told():
    """What the undisturbed run reports."""
    return []


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory, told):
    def report(step, figures):
        told.append((step, dict(figures)))

    return tune(base, tmp_path_factory.mktemp("tuned"), report)


def test_newest_checkpoint_ignores_unfinished_ones(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step, is_complete in ((2, True), (10, True), (9, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if is_complete:
            (tmp_path / f"checkpoint-{step}" / COMPLETE).touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_finetune_lowers_the_loss_and_leaves_a_loadable_model(base, undisturbed):
    curve = undisturbed.curves["train_loss"]
    assert [step for step, _ in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1][1] < curve[0][1]
    assert undisturbed.num_train + undisturbed.num_dev == 12
    for name in ("dev_loss", "dev_plain_loss", "call_recall", "call_exact"):
        assert [step for step, _ in undisturbed.curves[name]] == [2, 4, 6]
    assert undisturbed.model.digest != base.digest
    assert undisturbed.model.digest == folder_digest(Path(undisturbed.model.path), "float32")
    AutoModelForCausalLM.from_pretrained(undisturbed.model.path)


def test_finetune_reports_every_point_of_the_curves_in_order(undisturbed, told):
    steps = [step for step, _ in told]
    assert steps == sorted(steps)
    for name, curve in undisturbed.curves.items():
        assert tuple((s, figures[name]) for s, figures in told if name in figures) == curve


def test_finetune_figures_equal_those_of_one_pass_per_text(base, undisturbed):
    """Of the chosen checkpoint, in float32 and without batches."""
    at_end = {
        name: dict(curve)[undisturbed.chosen_step] for name, curve in undisturbed.curves.items()
    }
    lm = load_model(undisturbed.model, "cpu", 512)
    _, dev = split_documents(documents(), config())
    sums = {"dev_loss": [0.0, 0], "dev_plain_loss": [0.0, 0], "call_recall": [0.0, 0]}
    for text, name in itertools.product(dev, ("dev_loss", "dev_plain_loss")):
        settings = config(without_calls=name == "dev_plain_loss")
        example = training_example(text, lm, settings)
        ids = example.input_ids.long()
        with torch.inference_mode():
            logprobs_TV = lm.model(input_ids=ids[None]).logits[0].log_softmax(1)
        for t in range(len(ids) - 1):
            sums[name][0] -= float(logprobs_TV[t, ids[t + 1]])
            sums[name][1] += 1
        for start, _ in example.calls:
            best = max(float(logprobs_TV[start - 1, k]) for k in lm.start_ids)
            sums["call_recall"][0] += int((logprobs_TV[start - 1] > best).sum()) < 10
            sums["call_recall"][1] += 1
    for name, (total, count) in sums.items():
        assert at_end[name] == pytest.approx(total / count, rel=1e-2)


def test_finetune_call_exact_is_one_for_a_model_that_knows_the_calls(base, tmp_path):
    """Trained on one text long enough, the model writes its call token by token."""
    (text,) = documents(1)
    others = [
        insert_calls(
            document(document_id=f"copy-{n}", text=text.original_text),
            [filter_decision(char_offset=text.calls[0].char_offset, argument="0 + 5", result="5")],
        )
        for n in range(20)
    ]
    settings = config(num_steps=60, learning_rate=1e-2, eval_every_steps=30)
    result = finetune_model(others, base, settings, tmp_path, "cpu")
    assert result.curves["call_exact"][-1] == (60, 1.0)
    assert result.curves["call_recall"][-1] == (60, 1.0)


class Crash(Exception):
    """Stands for the end of the process."""


def crash_at(step):
    def report(reached, figures):
        if reached == step and "train_loss" in figures:
            raise Crash

    return report


def test_finetune_interrupted_and_resumed_gives_the_same_weights(base, undisturbed, tmp_path):
    """Tolerance: none. On one CPU thread a resumed run repeats the same arithmetic."""
    with pytest.raises(Crash):
        tune(base, tmp_path, crash_at(5))
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    half_written = tmp_path / "checkpoint-6"
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"half")
    resumed = tune(base, tmp_path)
    assert resumed.curves == undisturbed.curves
    assert resumed.chosen_step == undisturbed.chosen_step
    assert_same_weights(undisturbed, resumed)


def test_finetune_lora_with_dropout_resumed_gives_the_same_weights(base, tmp_path):
    settings = {"lora_rank": 4, "lora_dropout": 0.3, "learning_rate": 1e-2}
    whole = tune(base, tmp_path / "whole", **settings)
    with pytest.raises(Crash):
        tune(base, tmp_path / "parts", crash_at(4), **settings)
    resumed = tune(base, tmp_path / "parts", **settings)
    assert resumed.curves == whole.curves
    assert_same_weights(whole, resumed)


def test_finetune_lora_is_merged_into_a_plain_model(base, tmp_path):
    result = tune(base, tmp_path, lora_rank=4, learning_rate=1e-2)
    assert not list(Path(result.model.path).glob("adapter*"))
    before = AutoModelForCausalLM.from_pretrained(base.path)
    merged = AutoModelForCausalLM.from_pretrained(result.model.path)
    with finetune._quiet_peft():
        adapted = PeftModel.from_pretrained(before, tmp_path / f"checkpoint-{result.chosen_step}")
    ids_BT = torch.arange(1, 30)[None]
    with torch.inference_mode():
        merged_BTV, adapted_BTV = merged(ids_BT).logits, adapted(ids_BT).logits
        with adapted.disable_adapter():
            base_BTV = adapted(ids_BT).logits
    torch.testing.assert_close(merged_BTV, adapted_BTV, rtol=1e-4, atol=1e-4)
    assert (merged_BTV - base_BTV).abs().max() > 1e-2
    assert merged.config.tie_word_embeddings


def assert_near_curves(found, expected, rel):
    assert found.curves.keys() == expected.curves.keys()
    for name in ("train_loss", "dev_loss", "dev_plain_loss"):
        for (step, value), (other_step, other) in zip(
            found.curves[name], expected.curves[name], strict=True
        ):
            assert step == other_step
            assert value == pytest.approx(other, rel=rel)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_finetune_in_micro_batches_has_the_curves_of_one_batch(
    base, undisturbed, tmp_path, micro_batch_size
):
    """Texts of unequal length: the mean is over tokens. Tolerance: the order of float32 sums."""
    parts = tune(base, tmp_path, micro_batch_size=micro_batch_size)
    assert_near_curves(parts, undisturbed, rel=1e-4)


def test_finetune_products_have_the_dtype_of_the_base_model(base, undisturbed, tmp_path):
    """Tolerance: bfloat16 products; the weights that are trained are float32 in both."""
    halved = tune(dataclasses.replace(base, dtype="bfloat16"), tmp_path)
    assert_near_curves(halved, undisturbed, rel=1e-2)
    assert halved.curves["train_loss"] != undisturbed.curves["train_loss"]
    assert halved.model.dtype == "bfloat16"


def test_finetune_with_recomputed_activations_gives_the_same_weights(base, undisturbed, tmp_path):
    result = tune(base, tmp_path, activation_checkpointing=True)
    assert result.curves == undisturbed.curves
    assert_same_weights(undisturbed, result)


def mean_nll(lm, examples):
    """Nats per token, of one float32 pass per text."""
    total, count = 0.0, 0
    for example in examples:
        ids = example.input_ids.long()
        with torch.inference_mode():
            logprobs_TV = lm.model(input_ids=ids[None]).logits[0].log_softmax(1)
        total -= float(logprobs_TV[:-1].gather(1, ids[1:, None]).sum())
        count += len(ids) - 1
    return total / count


def test_finetune_packed_losses_are_those_of_each_text_alone(base, undisturbed, tmp_path):
    """Of a model that has learnt to look back, and hardly learns more."""
    settings = {"packing": True, "max_sequence_tokens": 300, "learning_rate": 1e-9}
    result = tune(undisturbed.model, tmp_path, **settings)
    lm = load_model(undisturbed.model, "cpu", 512)
    train, dev = split_documents(documents(), config())
    examples = [training_example(text, lm, config(**settings)) for text in train]
    rows = training_rows(train, [len(e.input_ids) for e in examples], config(**settings), 6)
    assert max(len(row) for row in rows) > 1
    for step, loss in result.curves["train_loss"]:
        read = [examples[k] for row in rows[4 * step - 4 : 4 * step] for k in row]
        assert loss == pytest.approx(mean_nll(lm, read), rel=1e-4)
    held_out = [training_example(text, lm, config(**settings)) for text in dev]
    assert result.curves["dev_loss"][0][1] == pytest.approx(mean_nll(lm, held_out), rel=1e-4)


def test_finetune_control_without_calls_never_sees_one(base, undisturbed, tmp_path):
    control = tune(base, tmp_path, without_calls=True)
    assert control.curves["dev_loss"] == control.curves["dev_plain_loss"]
    assert set(control.curves) == {"train_loss", "dev_loss", "dev_plain_loss"}
    assert (control.num_train, control.num_dev) == (undisturbed.num_train, undisturbed.num_dev)
    assert control.model.digest != undisturbed.model.digest


def test_finetune_plain_texts_come_on_top_of_a_tiny_corpus(base, tmp_path):
    """Also where the split would hold out the only text with calls."""
    [text] = documents(1)
    many = [text, *documents(12)]
    splits = {n: split_documents(many, config(seed=n, dev_fraction=0.5)) for n in range(20)}
    seed = next(n for n, (_, dev) in splits.items() if text in dev)
    plain = [dataclasses.replace(text, document_id=f"plain-{n}", calls=()) for n in range(3)]
    settings = config(seed=seed, dev_fraction=0.5, num_steps=1)
    result = finetune_model([text], base, settings, tmp_path, "cpu", plain=plain)
    assert (result.num_train, result.num_dev) == (4, 0)


@pytest.mark.parametrize("settings", [{}, {"dev_fraction": 0}, {"packing": True}])
def test_finetune_that_diverges_is_told_with_its_step(base, tmp_path, settings):
    broken = tmp_path / "broken"
    shutil.copytree(base.path, broken)
    tensors = load_file(broken / "model.safetensors")
    next(t for name, t in tensors.items() if "layers.0" in name).fill_(math.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    ref = dataclasses.replace(base, path=str(broken))
    with pytest.raises(ConfigError, match=r"loss is nan at step 1; lower finetune\.learning_rate"):
        tune(ref, tmp_path / "tuned", **settings)


def test_finetune_whose_update_spoils_the_weights_is_told(base, tmp_path, monkeypatch):
    """The loss was finite; the gradient was not."""
    backward = training_loss._ChunkedLoss.backward

    def overflows(ctx, *outer):
        return backward(ctx, outer[0] * math.inf)

    monkeypatch.setattr(training_loss._ChunkedLoss, "backward", staticmethod(overflows))
    with pytest.raises(ConfigError, match="norm of the gradient is nan at step 1"):
        tune(base, tmp_path)


def test_finetune_micro_batch_that_does_not_divide_the_batch_is_reduced_and_logged(
    base, tmp_path, caplog
):
    tune(base, tmp_path, micro_batch_size=3, num_steps=1)
    assert "micro-batches of 2 rows, not 3: the 4 rows of a step" in caplog.text


def test_finetune_that_had_ended_saves_a_model_that_is_not_intact_again(
    base, undisturbed, tmp_path
):
    whole = tune(base, tmp_path)
    assert model_is_intact(whole)
    model_file = Path(whole.model.path) / "model.safetensors"
    model_file.write_bytes(model_file.read_bytes()[:-8])
    assert not model_is_intact(whole)
    model_file.unlink()
    assert not model_is_intact(whole)
    again = tune(base, tmp_path)
    assert again == whole
    assert model_is_intact(again)
    assert_same_weights(undisturbed, again)


def test_finetune_without_held_out_texts_chooses_the_last_step(base, tmp_path):
    result = tune(base, tmp_path, dev_fraction=0, num_steps=3)
    assert (result.chosen_step, result.num_dev) == (3, 0)
    assert set(result.curves) == {"train_loss"}


def history(*values, name="dev_loss"):
    return [{"loss": 1.0}, *({f"eval_{name}": value} for value in values)]


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ((), 1, False),
        ((3.0, 2.0), 1, False),
        ((3.0, 2.0, 2.5), 1, True),
        ((3.0, 2.0, 2.0), 1, True),
        ((3.0, 2.0, 2.5), 2, False),
        ((3.0, 2.0, 2.5, 2.1), 2, True),
        ((3.0, 2.0, 2.5, 1.9), 2, False),
        ((3.0, 4.0, 5.0), None, False),
    ],
)
def test_early_stop_after_patience_evaluations_without_a_better_one(values, patience, expected):
    settings = config(early_stopping_patience=patience)
    assert is_exhausted(history(*values), settings) is expected
    upward = config(early_stopping_patience=patience, checkpoint_metric="call_exact")
    negated = [-value for value in values]
    assert is_exhausted(history(*negated, name="call_exact"), upward) is expected


def test_early_stop_ends_training_and_a_resumed_run_does_not_go_on(base, tmp_path):
    settings = {"learning_rate": 0.5, "num_steps": 40, "early_stopping_patience": 1}
    result = tune(base, tmp_path, **settings)
    last = result.curves["train_loss"][-1][0]
    assert result.chosen_step < last < 40
    best = min(result.curves["dev_loss"], key=lambda point: point[1])
    assert result.chosen_step == best[0]
    shutil.rmtree(tmp_path / "model")
    again = tune(base, tmp_path, **settings)
    assert again == result


def test_checkpoint_metric_call_exact_chooses_the_earliest_of_equals(base, tmp_path):
    result = tune(base, tmp_path, checkpoint_metric="call_exact")
    curve = dict(result.curves["call_exact"])
    assert result.chosen_step == next(s for s, v in curve.items() if v == max(curve.values()))


def test_checkpoint_metric_call_exact_without_calls_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match=r"no held-out text has a call; choose dev_plain_loss"):
        tune(base, tmp_path, checkpoint_metric="call_exact", without_calls=True)


def test_checkpoints_keeps_the_newest_and_the_best_and_marks_before_it_deletes(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    for step, best in ((2, 2), (4, 2), (6, 2), (8, 8)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = TrainerState(global_step=step, best_global_step=best)
        _Checkpoints().on_save(arguments, state, None)
        kept = {path.parent.name for path in tmp_path.glob(f"checkpoint-*/{COMPLETE}")}
        assert kept == {f"checkpoint-{step}", f"checkpoint-{best}"}
        assert kept == {path.name for path in tmp_path.glob("checkpoint-*")}


def test_finetune_empty_corpus_is_refused(base, tmp_path):
    with pytest.raises(CorpusError, match="empty"):
        finetune_model([], base, config(), tmp_path, "cpu")
