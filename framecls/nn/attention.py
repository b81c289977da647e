"""Self-attention, as in Hung-yi Lee's lecture: every output vector has looked at every input vector.

Each input vector a becomes a query q, a key k and a value v. The relevance of vector j to vector i is a number made of
q_i and k_j; a softmax over j turns the relevances into weights; output i is the weighted sum of the values. The two
classes differ in that number alone. Several heads do this side by side, each for its own kind of relevance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Additive relevance holds one vector for each pair of positions; queries are taken a few at a time to bound that.
_MAX_PAIR_ELEMENTS = 2**24


class Attention(nn.Module):
    """What both kinds of self-attention share: projections, heads, masking and the weighted sum.

    Subclasses define the relevance, `score`.
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"{n_heads} heads do not divide {dim} dimensions")
        self.n_heads = n_heads
        self.to_query_key_value = nn.Linear(dim, 3 * dim)
        self.to_output = nn.Linear(dim, dim)

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the relevance of every key to every query.

        Args:
            query: (batch, head, query, channel).
            key: (batch, head, key, channel).

        Returns:
            (batch, head, query, key).
        """
        raise NotImplementedError

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, head, query, channel) the weighted sums of the values; mask: (batch, key) True = real."""
        return self._weights(query, key, mask) @ value

    def forward(self, x: Tensor, mask: Tensor, *, need_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Let every vector of a sequence look at every other.

        Args:
            x: (batch, position, channel).
            mask: (batch, position) True = real; a padded position is never looked at.
            need_weights: return the attention weights too.

        Returns:
            (batch, position, channel), and (batch, head, query, key) weights that sum to one over the keys, or None.
        """
        batch, length, dim = x.shape
        heads = self.to_query_key_value(x).view(batch, length, 3, self.n_heads, dim // self.n_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (batch, head, position, channel)
        weights = self._weights(query, key, mask) if need_weights else None
        mixed = self.attend(query, key, value, mask) if weights is None else weights @ value
        return self.to_output(mixed.transpose(1, 2).reshape(batch, length, dim)), weights

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        relevance = self.score(query, key).masked_fill(~mask[:, None, None, :], -math.inf)
        return relevance.softmax(dim=-1)


class DotProductAttention(Attention):
    """Relevance is the scaled dot product of query and key (Vaswani et al. 2017, "Attention Is All You Need")."""

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        # The same weighted sum in one fused kernel, which never holds the (query, key) matrix as a whole.
        # A mask keeps torch from its fastest kernel, so there is none where nothing is padded.
        # Nor is there dropout on the weights: on a CPU that, too, costs the fused kernel, and twice the time of a step.
        # An exported graph has one way for all inputs.
        no_mask = not torch.compiler.is_exporting() and bool(mask.all())
        keep = None if no_mask else mask[:, None, None, :]
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=keep)


class AdditiveAttention(Attention):
    """Relevance is w · tanh(query + key) (Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to
    Align and Translate"); query and key are already transformed by matrices of their own.
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__(dim, n_heads)
        self.to_score = nn.Parameter(torch.empty(n_heads, dim // n_heads))
        if not self.to_score.is_meta:  # nothing to draw there, and doing so would load torch's compiler
            nn.init.normal_(self.to_score, std=(dim // n_heads) ** -0.5)

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        weight = self.to_score[None, :, None, None, :]
        if torch.compiler.is_exporting():  # a loop of as many turns as the lengths ask for is no graph
            return (torch.tanh(query.unsqueeze(3) + key.unsqueeze(2)) * weight).sum(dim=-1)
        pair_elements = key.shape[0] * key.shape[1] * key.shape[2] * key.shape[3]
        chunk = max(1, _MAX_PAIR_ELEMENTS // max(1, pair_elements))
        parts = [
            (torch.tanh(some.unsqueeze(3) + key.unsqueeze(2)) * weight).sum(dim=-1)
            for some in torch.split(query, chunk, dim=2)
        ]
        return torch.cat(parts, dim=2)


ATTENTIONS: dict[str, type[Attention]] = {"dot": DotProductAttention, "additive": AdditiveAttention}
