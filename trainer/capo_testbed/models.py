"""The testbed's tokenizer and tiny Llamas, and how they are trained from scratch."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SEPARATE = r"</?step_[0-9]+ |[b-df-hj-np-tv-xz]{7}>|[0-9]"
_CONTEXT = 1024
_LINKS = 16


def train_tokenizer(texts: Iterable[str], fixed: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE over whole texts; digits and the judge's step tags are tokens of their own.

    Args:
        texts: samples of what the models will read and write.
        fixed: texts that never change, such as the lines of the judge's instructions; each
            becomes one token, which keeps the judge's prompts short.
        vocabulary: size, without `fixed`.
    """
    tokenizer = Tokenizer(models.BPE())
    # Without splitting into words, frequent phrases become one token.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SEPARATE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in fixed])
    return tokenizer


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers and vLLM load it."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = _CHAT_TEMPLATE
    return wrapped


def new_model(tokenizer: PreTrainedTokenizerFast, layers: int, hidden: int) -> LlamaForCausalLM:
    """An untrained Llama; head size 32, the smallest that vLLM supports."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 32,
            max_position_embeddings=_CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def deepened(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """A copy with more layers on top, which initially change nothing."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers += layers
    config.layer_types = None
    deeper = LlamaForCausalLM(config)
    deeper.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for layer in deeper.model.layers[-layers:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return deeper


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """Token ids; those from position `start` on are learnt.

    `taught`: further targets as (position, id): the id that should have been there. `marks`: labels
    as (position, is wrong), which a probe of the model's state learns; the probe is discarded
    afterwards. `links`: the same for a number below 16, one layer below the last.
    """

    ids: Sequence[int]
    start: int
    marks: Sequence[tuple[int, bool]] = ()
    taught: Sequence[tuple[int, int]] = ()
    links: Sequence[tuple[int, int]] = ()


def train(
    model: LlamaForCausalLM,
    examples: Callable[[], Iterator[TrainingExample]],
    *,
    updates: int,
    batch: int,
    learning_rate: float,
    pad: int,
    half: bool = False,
    probed: int = -1,
    stress: float = 1.0,
    after: Callable[[int, float], None] | None = None,
) -> None:
    """Supervised training: Muon for matrices, AdamW for the rest, cosine schedule with warm-up.

    On this task Muon (arXiv 2502.16982) needs about a third of the updates that AdamW does.

    Args:
        model: changed in place.
        examples: makes an endless stream of examples.
        updates: optimiser steps.
        batch: examples in one.
        learning_rate: at its peak.
        pad: the id that pads.
        half: whether to compute in bfloat16.
        probed: the layer whose output the probe reads.
        stress: weight of `taught` and `marks` relative to the ids themselves.
        after: called after each update with its number and its loss.
    """
    probe = torch.nn.Linear(model.config.hidden_size, 1 + _LINKS)
    matrices: list[torch.nn.Parameter] = []
    others = [*probe.parameters()]
    for name, parameter in model.named_parameters():
        in_block = parameter.ndim == 2 and "embed" not in name
        (matrices if in_block else others).append(parameter)
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    warm = max(updates // 20, 1)

    def share(step: int) -> float:
        return min((step + 1) / warm, 0.02 + 0.98 * (1 + math.cos(math.pi * step / updates)) / 2)

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, share) for each in optimisers]
    stream = batches(examples(), batch)
    model.train()
    for update in range(updates):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = _loss(model, probe, probed, stress, next(stream), pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
        for each, schedule in zip(optimisers, schedules, strict=True):
            each.step()
            each.zero_grad()
            schedule.step()
        if after is not None:
            after(update + 1, loss.item())
            model.train()
    model.eval()


def batches(
    stream: Iterator[TrainingExample], size: int, pool: int = 8
) -> Iterator[list[TrainingExample]]:
    """Batches of examples of similar length, which keeps padding small."""
    rng = random.Random(0)  # noqa: S311  # the order of batches, not a secret
    while True:
        taken = sorted((next(stream) for _ in range(size * pool)), key=lambda e: len(e.ids))
        groups = [taken[i : i + size] for i in range(0, len(taken), size)]
        rng.shuffle(groups)
        yield from groups


def _loss(
    model: LlamaForCausalLM,
    probe: torch.nn.Linear,
    probed: int,
    stress: float,
    batch: list[TrainingExample],
    pad: int,
) -> torch.Tensor:
    """Sum of the mean losses of written ids, `taught`, `marks` and `links`."""
    width = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), width), pad)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
    # Padding is at the end, where nothing attends to it.
    states = model.model(input_ids=ids, output_hidden_states=True).hidden_states

    def at(places: list[tuple[int, int, int]], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, positions, wanted = torch.tensor(places).unbind(1)
        return states[layer][rows, positions], wanted

    written = [
        (row, place - 1, e.ids[place])
        for row, e in enumerate(batch)
        for place in range(e.start, len(e.ids))
    ]
    taught = [(row, at - 1, token) for row, e in enumerate(batch) for at, token in e.taught]
    marks = [(row, at, int(wrong)) for row, e in enumerate(batch) for at, wrong in e.marks]
    loss = torch.zeros(())
    for places, weight in ((written, 1.0), (taught, stress)):
        if places:
            hidden, wanted = at(places, -1)
            logits = model.lm_head(hidden).float()
            loss = loss + weight * functional.cross_entropy(logits, wanted)
    if marks:
        hidden, wanted = at(marks, probed)
        scores = probe(hidden)[:, 0].float()
        errors = functional.binary_cross_entropy_with_logits(scores, wanted.float())
        loss = loss + stress * errors
    links = [(row, at, number) for row, e in enumerate(batch) for at, number in e.links]
    if links:
        hidden, wanted = at(links, -2)
        loss = loss + functional.cross_entropy(probe(hidden)[:, 1:].float(), wanted)
    return loss


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model so that transformers and vLLM load it; never incompletely."""
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        folder.rename(old)
        part.rename(folder)
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    else:
        part.rename(folder)
