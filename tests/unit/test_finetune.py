"""Fine-tuning: the chunked loss, the labels, the split, and resuming after a crash."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.builders import augmented_document, document, filter_decision
from tests.support.tiny_model import sum_text
from toolformer_core import finetune
from toolformer_core.augment import insert_calls
from toolformer_core.config import FinetuneConfig
from toolformer_core.errors import CorpusError
from toolformer_core.finetune import (
    IGNORED,
    chunked_loss,
    finetune_model,
    newest_checkpoint,
    split_documents,
    training_example,
)
from toolformer_core.models import ModelRef, folder_digest, load_model


@pytest.fixture(scope="module")
def base(tiny_llama_folder):
    digest = folder_digest(tiny_llama_folder, "float32")
    return ModelRef(path=str(tiny_llama_folder), digest=digest, dtype="float32")


@pytest.fixture(scope="module")
def lm(base):
    return load_model(base, "cpu", 4096)


def documents(count=12):
    texts = [sum_text(n + 1, n + 5) for n in range(count)]
    return [
        augmented_document(
            document_id=f"document-{n}", original_text=text, augmented_text=text, calls=()
        )
        for n, text in enumerate(texts)
    ]


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


@pytest.mark.parametrize("ignored_share", [0.0, 0.4])
def test_chunked_loss_and_gradients_equal_full_cross_entropy(ignored_share):
    generator = torch.Generator().manual_seed(1)
    hidden_BTH = torch.randn(4, 400, 16, generator=generator)
    head = torch.nn.Linear(16, 50, bias=False)
    labels_BT = torch.randint(0, 50, (4, 400), generator=generator)
    labels_BT[torch.rand(4, 400, generator=generator) < ignored_share] = IGNORED

    def gradients(loss_of):
        hidden = hidden_BTH.clone().requires_grad_()
        loss = loss_of(hidden)
        return loss.detach(), *torch.autograd.grad(loss, [hidden, head.weight])

    def full(hidden):
        logits_NV = head(hidden)[:, :-1].reshape(-1, 50)
        targets_N = labels_BT[:, 1:].reshape(-1)
        return torch.nn.functional.cross_entropy(
            logits_NV, targets_N, ignore_index=IGNORED, reduction="sum"
        )

    found = gradients(lambda hidden: chunked_loss(hidden, head, labels_BT))
    expected = gradients(full)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_chunked_loss_without_labels_is_zero():
    labels_BT = torch.full((2, 5), IGNORED)
    loss = chunked_loss(torch.zeros(2, 5, 4), torch.nn.Linear(4, 7), labels_BT)
    assert float(loss.detach()) == 0.0


TEXT = "She bought 34 apples and 57 pears, and that is 91.\nIt is Tuesday, 4 in the afternoon."


def call(text_before, tool, argument, result):
    return filter_decision(
        candidate_id=text_before,
        char_offset=len(text_before),
        tool=tool,
        argument=argument,
        result=result,
    )


def labelled_texts(lm, example):
    """The runs of tokens that are left out of the loss, decoded."""
    runs, run = [], []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        if label == IGNORED:
            run.append(token)
            continue
        assert label == token
        runs, run = [*runs, *([run] if run else [])], []
    return [lm.tokenizer.decode(run) for run in [*runs, *([run] if run else [])]]


@pytest.fixture
def augmented():
    calls = [
        call("She bought 34 apples and 57 pears, and that is", "Calculator", "34 + 57", "91"),
        call(TEXT.partition(" Tuesday")[0], "Calendar", "", "Today is Tuesday, March 4, 2014."),
    ]
    return insert_calls(document(text=TEXT), calls)


def test_training_example_masks_exactly_the_results(lm, augmented):
    example = training_example(
        augmented, lm, config(train_on_results=False, max_sequence_tokens=1024)
    )
    assert [text.lstrip(" ") for text in labelled_texts(lm, example)] == [
        "91]",
        "Today is Tuesday, March 4, 2014.]",
    ]


def test_training_example_at_the_start_of_a_line_masks_exactly_the_result(lm):
    decision = call("", "Calculator", "34 + 57", "91")
    augmented = insert_calls(document(text="the mill is closed."), [decision])
    assert augmented.augmented_text == "[Calculator(34 + 57) -> 91] the mill is closed."
    example = training_example(augmented, lm, config(train_on_results=False))
    assert [text.strip(" ") for text in labelled_texts(lm, example)] == ["91]"]


def test_training_example_on_results_masks_nothing_and_is_the_whole_text(lm, augmented):
    example = training_example(augmented, lm, config(max_sequence_tokens=1024))
    assert example.labels == example.input_ids
    start = lm.tokenizer.decode([lm.document_start_id])
    assert lm.tokenizer.decode(example.input_ids) == f"{start}{augmented.augmented_text}{start}"


def test_training_example_is_cut_to_the_length(lm, augmented):
    example = training_example(augmented, lm, config(max_sequence_tokens=9))
    assert len(example.input_ids) == len(example.labels) == 9


def test_split_documents_depends_on_id_and_seed_alone():
    many = documents(200)
    train, dev = split_documents(many, config())
    assert sorted(d.document_id for d in (*train, *dev)) == sorted(d.document_id for d in many)
    assert 20 <= len(dev) <= 60
    backward = split_documents(many[::-1], config())
    assert backward == (train[::-1], dev[::-1])
    half = split_documents(many[::2], config())
    assert half[1] == [d for d in many[::2] if d in dev]
    assert split_documents(many, config(seed=4))[1] != dev


def test_split_documents_never_leaves_training_empty():
    for number in range(20):
        (only,) = documents(number + 1)[-1:]
        assert split_documents([only], config(dev_fraction=0.5)) == ([only], [])


def test_newest_checkpoint_ignores_unfinished_ones(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step, is_complete in ((2, True), (10, True), (9, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if is_complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def weights(result):
    return load_file(f"{result.model.path}/model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory):
    return finetune_model(documents(), base, config(), tmp_path_factory.mktemp("tuned"), "cpu")


def test_finetune_lowers_the_loss_and_leaves_a_loadable_model(base, undisturbed):
    curve = [loss for _, loss in undisturbed.train_loss]
    assert len(curve) == 6
    assert curve[-1] < curve[0]
    assert undisturbed.num_train + undisturbed.num_dev == 12
    assert [step for step, _ in undisturbed.dev_loss] == [2, 4, 6]
    assert undisturbed.model.digest != base.digest
    assert undisturbed.model.digest == folder_digest(Path(undisturbed.model.path), "float32")
    AutoModelForCausalLM.from_pretrained(undisturbed.model.path)


class Crash(Exception):
    """Stands for the end of the process."""


def test_finetune_interrupted_and_resumed_gives_the_same_weights(
    base, undisturbed, tmp_path, monkeypatch
):
    """Tolerance: none. On one CPU thread a resumed run repeats the same arithmetic."""
    compute_loss, count = finetune._ChunkedLossTrainer.compute_loss, iter(range(100))

    def crashing(trainer, *arguments, **named):
        if trainer.model.training and next(count) == 4:
            raise Crash
        return compute_loss(trainer, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(finetune._ChunkedLossTrainer, "compute_loss", crashing)
        with pytest.raises(Crash):
            finetune_model(documents(), base, config(), tmp_path, "cpu")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    half_written = tmp_path / "checkpoint-6"
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"half")
    resumed = finetune_model(documents(), base, config(), tmp_path, "cpu")
    assert resumed.train_loss == undisturbed.train_loss
    expected, found = weights(undisturbed), weights(resumed)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_finetune_accumulated_batches_have_the_loss_of_one_batch(base, undisturbed, tmp_path):
    """Texts of unequal length: the mean is over tokens, not over micro-batches. bfloat16."""
    parts = finetune_model(documents(), base, config(micro_batch_size=2), tmp_path, "cpu")
    first, expected = parts.train_loss[0][1], undisturbed.train_loss[0][1]
    assert math.isclose(first, expected, rel_tol=2e-2)


def test_finetune_empty_corpus_is_refused(base, tmp_path):
    with pytest.raises(CorpusError, match="empty"):
        finetune_model([], base, config(), tmp_path, "cpu")
