"""The network: raw features to a probability, with encoder, embeddings and layers in one module.

    numeric ──▶ encoder ─┬─ tabular ──────────────────┬─▶ hidden layers ──▶ one output per member
    categories ──▶ embeddings ─┘      │ queries       │
                         └─ events ──▶ attention ─────┘

- Sequences: queries computed from the rest of the row attend to its last events (`EventAttention`).
- Output heads: one per teacher (`ontime.models.distillation`), on shared layers. The prediction is
  their mean, the uncertainty their standard deviation.
- Missing inputs: NaN and unknown categories have encodings of their own, which training uses by
  dropping whole feature groups (`ontime.models.trainer`). An absent event gets no attention.

Shapes: n rows, f numeric features, c categorical features, k ensemble members, s sequences. numeric
float32 [n, f] (NaN = missing), categories int64 [n, c] (0 = unknown), encoded [n, 3 f], logits
[n, k]. Of one sequence: e events of w inputs each, q queries of d dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ontime.models.hyperparameters import HYPERPARAMETERS
from ontime.models.preprocessing import TRANSFORMS_PER_FEATURE, Encoder

PREDICT_BATCH = 4_096  # rows per batch: bounded memory, and activations stay in the CPU's cache


@dataclass(frozen=True)
class ModelConfig:
    """Size of the network; `make tune` may replace the defaults."""

    hidden: int = HYPERPARAMETERS["network"]["hidden"]  # units per layer
    layers: int = HYPERPARAMETERS["network"]["layers"]
    members: int = 5  # output heads, one per teacher
    embedding: int = HYPERPARAMETERS["network"]["embedding"]  # dimensions per categorical feature
    queries: int = 2  # per sequence
    event_width: int = 32  # dimensions of a query and of an event


class EventAttention(nn.Module):
    """Scaled dot-product attention of a row's queries to its last events (Vaswani et al., 2017).

    An event's key and value are one vector, computed by a linear and a residual layer (He et al.,
    2016). There is one slot more, with a learnt key and value, for attention to no event; it gets
    all of it where every event is absent.
    """

    def __init__(self, n_inputs: int, width: int) -> None:
        super().__init__()
        self.event = nn.Linear(n_inputs, width)
        self.residual = nn.Linear(width, width)
        self.no_event_key = nn.Parameter(torch.zeros(width))
        self.no_event_value = nn.Parameter(torch.zeros(width))

    def forward(self, events: Tensor, absent: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The context vectors [n, q, d], and the attention to each event and to none [n, q, e + 1].

        Args:
            events: encoded inputs [n, e, 3 w].
            absent: bool [n, e].
            queries: [n, q, d].
        """
        x = F.relu(self.event(events))
        x = x + F.relu(self.residual(x))
        scores = torch.bmm(queries, x.transpose(1, 2)).float()
        scores = scores.masked_fill(absent[:, None], -torch.inf)
        no_event = (queries @ self.no_event_key.to(queries.dtype)).float()
        scores = torch.cat([scores, no_event[..., None]], dim=2)
        attention = torch.softmax(scores / x.shape[2] ** 0.5, dim=2)
        weights = attention.to(x.dtype)
        none = weights[..., -1:] * self.no_event_value.to(x.dtype)
        return torch.bmm(weights[..., :-1], x) + none, attention


class Network(nn.Module):
    """Raw features (numeric, categories) -> probability [n].

    Args:
        category_sizes: number of known values of each categorical feature.
        sequences: events and inputs per event of each sequence; they are the last of the f
            numeric features.
    """

    def __init__(
        self,
        config: ModelConfig,
        encoder: Encoder,
        category_sizes: list[int],
        sequences: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.sequences = config, encoder, dict(sequences or {})
        self.embeddings = nn.ModuleList(
            _embedding(size + 1, config.embedding) for size in category_sizes
        )
        self.n_tabular = len(encoder.median) - sum(e * w for e, w in self.sequences.values())
        n_row = TRANSFORMS_PER_FEATURE * self.n_tabular + config.embedding * len(category_sizes)
        n_context = config.queries * config.event_width * len(self.sequences)
        if self.sequences:
            self.queries = nn.Linear(n_row, n_context)
        self.attention = nn.ModuleDict(
            {
                name: EventAttention(TRANSFORMS_PER_FEATURE * w, config.event_width)
                for name, (_, w) in self.sequences.items()
            }
        )
        sizes = [n_row + n_context] + [config.hidden] * config.layers
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], config.members)

    def forward(self, numeric: Tensor, categories: Tensor) -> Tensor:
        return self.member_probabilities(numeric, categories).mean(dim=1)

    def member_probabilities(self, numeric: Tensor, categories: Tensor) -> Tensor:
        """Probabilities of each ensemble member [n, k]."""
        return torch.sigmoid(self.logits(self.encoder(numeric), categories))

    def logits(
        self, encoded: Tensor, categories: Tensor, unit_factors: Sequence[Tensor] = ()
    ) -> Tensor:
        """Logits [n, k] of encoded rows; training encodes its rows once.

        Args:
            unit_factors: of dropout, for the units of each hidden layer, [n, hidden] each.
        """
        row = self._row(encoded, categories)
        contexts = [each.flatten(1) for each, _ in self._attend(row, encoded).values()]
        x = torch.cat([row, *(each.to(row.dtype) for each in contexts)], dim=1)
        for i, layer in enumerate(self.hidden):
            x = layer(x).relu_()
            if unit_factors:
                x = x * unit_factors[i].to(x.dtype)
        logits: Tensor = self.output(x)
        return logits

    def attention_weights(self, numeric: Tensor, categories: Tensor) -> dict[str, Tensor]:
        """Sequence -> attention of each query to each event, then to no event, [n, q, e + 1]."""
        encoded = self.encoder(numeric)
        attended = self._attend(self._row(encoded, categories), encoded)
        return {name: attention for name, (_, attention) in attended.items()}

    def _row(self, encoded: Tensor, categories: Tensor) -> Tensor:
        """The encoded row without its sequences."""
        transforms = encoded.unflatten(1, (TRANSFORMS_PER_FEATURE, -1))
        embedded = [table(categories[:, i]) for i, table in enumerate(self.embeddings)]
        tabular = transforms[:, :, : self.n_tabular].flatten(1)
        return torch.cat([tabular, *(part.to(encoded.dtype) for part in embedded)], dim=1)

    def _attend(self, row: Tensor, encoded: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Sequence -> its context vectors and attention, as `EventAttention` returns them."""
        if not self.sequences:
            return {}
        transforms = encoded.unflatten(1, (TRANSFORMS_PER_FEATURE, -1))
        shape = (len(self.sequences), self.config.queries, self.config.event_width)
        queries = self.queries(row).unflatten(1, shape)
        attended, start = {}, self.n_tabular
        for i, (name, (e, w)) in enumerate(self.sequences.items()):
            events = transforms[:, :, start : start + e * w].unflatten(2, (e, w))  # [n, 3, e, w]
            absent = events[:, -1, :, 0] > 0  # the first input's missing indicator
            inputs = events.transpose(1, 2).flatten(2)  # [n, e, 3 w]
            attended[name] = self.attention[name](inputs, absent, queries[:, i])
            start += e * w
        return attended


def _embedding(size: int, dimensions: int) -> nn.Embedding:
    """`nn.Embedding` with its usual initialisation, except on the "meta" device.

    There `normal_` imports the compiler of torch, for seconds, and sympy, which serving lacks.
    """
    weight = torch.empty(size, dimensions)
    if not weight.is_meta:
        nn.init.normal_(weight)
    return nn.Embedding.from_pretrained(weight, freeze=False)
