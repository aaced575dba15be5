"""Traces of verifiers (v1): graphs of messages with the tokens that they add to their path.

This module needs no verifiers; `capo_client.adapters.verifiers` has the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capo_client.adapters.advantages import AdvantageLevel, AdvantageScale, token_advantages
from capo_client.adapters.sequences import TokenSequence

INFO = "capo_token_rewards"  # in `trace.info`: for each node, the rewards of its sampled tokens


def path_to(trace: Any, number: int | None) -> list[int]:
    """The numbers of the nodes from the root to this one."""
    path = []
    while number is not None:
        path.append(number)
        number = trace.nodes[number].parent
    return path[::-1]


def messages(nodes: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages of nodes, as JSON."""
    return [node.message.model_dump(exclude_none=True) for node in nodes]


def sequence(path: Sequence[Any]) -> TokenSequence:
    """A call's context and reply; a reply's node begins with the template's generation prompt."""
    *context, reply = path
    start = list(reply.mask).index(True)
    prompt = [token for node in context for token in node.token_ids] + reply.token_ids[:start]
    return TokenSequence(prompt, reply.token_ids[start:], [int(own) for own in reply.mask[start:]])


def assign_advantages(
    traces: Sequence[Any], scale: AdvantageScale = "group", level: AdvantageLevel = "token"
) -> None:
    """Set `advantages` of the nodes of traces of one task: eq. 2 over their sampled tokens.

    Traces without token rewards (no credit, or not scored by `CapoJudge`) are left out of mean and
    standard deviation, and their nodes have no advantages. So are nodes on branches that verifiers
    does not train on.

    Args:
        traces: the traces.
        scale: the divisor, as in `token_advantages`.
        level: what counts once: a `token` or a `turn`.

    Raises:
        ValueError: a node has not one token reward for each sampled token.
    """
    import torch

    rows: list[list[float]] = []
    masks: list[list[bool]] = []
    nodes = []
    for trace in traces:
        found = _trained_nodes(trace)
        nodes.append(found)
        # A zero that does not count separates the turns.
        rows.append([value for _, rewards in found for value in (*rewards, 0.0)])
        masks.append([own for _, rewards in found for own in (*[True] * len(rewards), False)])
    pad = torch.nn.utils.rnn.pad_sequence
    values, mask = (
        pad([torch.tensor(row, dtype=kind) for row in each], batch_first=True)
        for each, kind in ((rows, torch.float32), (masks, torch.bool))
    )
    advantages = token_advantages(values, mask, [0] * len(rows), scale, level).tolist()
    for found, row in zip(nodes, advantages, strict=True):
        position = 0
        for node, rewards in found:
            node.advantages = row[position : position + len(rewards)]
            position += len(rewards) + 1


def _trained_nodes(trace: Any) -> list[tuple[Any, list[float]]]:
    """The nodes that train, each with the rewards of its sampled tokens."""
    rewards = trace.info.get(INFO)
    for node in trace.nodes:
        node.advantages = None
    if rewards is None or not trace.agent.trainable:
        return []
    trained = {id(node) for branch in trace.branches if branch.trainable for node in branch.nodes}
    found = []
    for number, (node, own) in enumerate(zip(trace.nodes, rewards, strict=True)):
        if id(node) in trained and any(node.mask):
            if len(own) != sum(node.mask):
                raise ValueError(
                    f"node {number} of trace {trace.id} has {len(own)} token rewards for "
                    f"{sum(node.mask)} sampled tokens: score it with CapoJudge after its last turn"
                )
            found.append((node, own))
    return found
