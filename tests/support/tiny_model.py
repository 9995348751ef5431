"""Tiny causal language models built offline: real transformers folders, small enough for a CPU.

A random one serves wherever only the arithmetic counts. `train_on` overfits one on a few texts, so
that a real model, not a scripted one, opens calls, closes them and goes on.
"""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

ENDING = "<|endoftext|>"

SENTENCES = (
    "She bought 34 apples and 57 pears, and that is [Calculator(34 + 57) -> 91] 91 in all.",
    "Copy the text and insert calls. Input: Output: The total is 5 + 6 = 11 - 3 * 2 / 4.",
    "Today is [Calendar() -> Today is Tuesday, March 4, 2014.] Tuesday, and the mill is closed.",
    "The library opens again tomorrow, on Wednesday; Monday was a holiday.",
    'Write a call as "[Calculator(expression)]" where the answer goes. Change nothing else.',
    "It cost 12 dollars, which is 3 less than the day before and 7 more than in May.",
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text goes in and out unchanged, digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[ENDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=ENDING,
        eos_token=ENDING,
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Two layers, grouped-query attention, rotary positions."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            initializer_range=0.2,  # a wide start, so that the distributions are not all alike
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


def tiny_gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """Two layers with learned absolute positions: a wrong position id shows."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            initializer_range=0.2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


def save(model: torch.nn.Module, folder: Path) -> Path:
    """The model and its tokenizer as a transformers folder."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


SUMS = ((3, 4), (5, 6), (8, 9), (2, 7), (6, 1), (9, 5))


def sum_text(first: int, second: int) -> str:
    """A sum, a call, its result, and the result in the text."""
    total = first + second
    return f"{first} + {second} is [Calculator({first} + {second}) -> {total}] {total}."


def decoding_texts() -> list[str]:
    """Texts as in C*: sums alone and in pairs, and calls that cannot be answered."""
    sums = [sum_text(*pair) for pair in SUMS]
    return [
        *sums,
        *(f"{one} {other}" for one, other in itertools.pairwise([*sums, sums[0]])),
        "7 / 0 is [Calculator(7 / 0) -> ] no number.",
        "The mill [Calculator, no] is closed.",
        "The library [Oracle(May) -> yes] opens.",
    ]


def annotation_texts() -> list[str]:
    """Calls without results, as an annotator writes them, in the middle of long unlike texts."""
    draw = random.Random(0)
    calls = [f" [Calculator({a} + {b})] {a + b}" for a, b in SUMS[:3]]
    calls += [" [WikiSearch(mill)] mill", " [WikiSearch(apples)] apples"]
    words = [word for sentence in SENTENCES for word in sentence.split() if "[" not in word]
    return [
        "".join(
            f" {' '.join(draw.choices(words, k=draw.randint(1, 9)))}{draw.choice(calls)}"
            for _ in range(14)
        )
        for _ in range(6)
    ]


def train_on(model: torch.nn.Module, texts: Sequence[str], num_steps: int) -> torch.nn.Module:
    """Overfit the model on the texts; about a second per hundred steps."""
    tokenizer = tiny_tokenizer()
    rows = [
        [tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        for text in texts
    ]
    longest = max(map(len, rows))
    ids_BT = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in rows])
    labels_BT = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model.train()
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(input_ids=ids_BT, labels=labels_BT).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()
