"""What training hides at random: groups of inputs, so that the network is calibrated with any of
them missing, and hidden units, so that it learns the labels' noise less.

Shapes: n rows, f numeric features, c categorical features.
"""

import torch
from torch import Tensor

from ontime.features.spec import FeatureSpec
from ontime.models.network import Network


class FeatureGroupDropout:
    """Sets groups of numeric inputs to missing and categories to unknown, at random per row."""

    def __init__(self, spec: FeatureSpec, p: float, generator: torch.Generator) -> None:
        self.p, self.generator = p, generator
        groups = [[name in group for name in spec.numeric] for group in spec.groups.values()]
        membership = torch.tensor(groups, dtype=torch.float32).reshape(-1, len(spec.numeric))
        self.membership = membership.to(generator.device)  # [groups, f]

    def __call__(self, encoded: Tensor, categories: Tensor) -> None:
        """Change encoded [n, 3 f] and categories [n, c] in place."""
        if self.p == 0:
            return
        n_groups, f = self.membership.shape
        shape = (len(encoded), n_groups + categories.shape[1])
        random = torch.rand(shape, generator=self.generator, device=self.generator.device)
        dropped = random < self.p
        missing = dropped[:, :n_groups].float() @ self.membership > 0  # [n, f]
        transforms = encoded.view(len(encoded), -1, f)  # the last one is the missing indicator
        transforms[:, :-1].masked_fill_(missing[:, None], 0.0)
        transforms[:, -1].masked_fill_(missing, 1.0)
        categories *= ~dropped[:, n_groups:]


def unit_dropout(network: Network, n: int, p: float, generator: torch.Generator) -> list[Tensor]:
    """Factors [n, hidden] for each hidden layer: 0 with probability p, else 1 / (1 - p).

    Dropout (Srivastava et al., 2014) with the generator of the training, so that every process
    under torchrun drops the same units.
    """
    if p == 0:
        return []
    shape, device = (n, network.config.hidden), generator.device
    return [
        (torch.rand(shape, generator=generator, device=device) >= p) / (1 - p)
        for _ in network.hidden
    ]
