"""What strategies add to local training, by values worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fakes import fake_site, fake_trainer, tiny_model
from hilum.federation.strategies.fedlsm import FedLSM
from hilum.federation.strategies.fedmlp import FedMLP
from hilum.federation.strategies.fedprox import FedProx
from hilum.federation.strategies.fedrep import FedRep
from hilum.models.taxonomy import Taxonomy
from hilum.sites.examples import Batch
from stand_ins import GROUPS, ByHand, StandIn

NAN = float("nan")
# The first image lacks labels 0 and 2, the second 1 and 2.
TARGETS = torch.tensor([[NAN, 1.0, NAN], [0.0, NAN, NAN]])


class Sure(nn.Module):
    """Says the same probabilities of every image; with a taxonomy, of a finding given its parent."""

    def __init__(self, *probabilities: float, taxonomy: Taxonomy | None = None) -> None:
        super().__init__()
        self.said = nn.Parameter(torch.tensor(probabilities).logit())
        self.taxonomy = taxonomy

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(logits=self.said.expand(len(images), -1))

    def answers(self, logits: Tensor) -> Tensor:
        return logits if self.taxonomy is None else self.taxonomy.unconditional(logits)


def taught(strategy: FedMLP, teacher: Sure, logits: Tensor) -> Tensor:
    """The strategy's term of the loss, of a model that has gone on since the round began."""
    rule: Any = strategy.lesson()
    rule.begin(teacher)
    teacher.said.data.zero_()
    loss: Tensor = rule.loss(teacher, Batch(torch.zeros(2, 1, 4, 4), TARGETS, torch.zeros(2)), logits)
    return loss


def test_fedmlp_pulls_the_unknown_probabilities_to_those_that_the_round_began_with() -> None:
    """2 · mean of (0.5 − 0.8)², (0.5 − 0.6)², (0.5 − 0.3)², (0.5 − 0.6)²; its gradient is (p − t) p (1 − p)."""
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = taught(FedMLP(GROUPS, weight=2.0), Sure(0.8, 0.3, 0.6), logits)
    assert loss.item() == pytest.approx(2 * (0.09 + 0.01 + 0.04 + 0.01) / 4)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.tensor([[-0.075, 0.0, -0.025], [0.0, 0.05, -0.025]]))


def test_fedlsm_teaches_what_its_teacher_is_sure_of_and_the_site_does_not_label() -> None:
    """A finding for label 0 of the first image, none for label 1 of the second; of label 2 the teacher is not sure."""
    logits = torch.tensor([[1.0, 5.0, 7.0], [5.0, 3.0, 7.0]], requires_grad=True)
    loss = taught(FedLSM(GROUPS, weight=2.0, low=0.1, high=0.9), Sure(0.95, 0.05, 0.5), logits)
    yes, no = torch.tensor([-1.0, 3.0]).exp().log1p().tolist()
    assert loss.item() == pytest.approx(2 * (yes + no) / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    up, down = torch.tensor([1.0, 3.0]).sigmoid() - torch.tensor([1.0, 0.0])
    torch.testing.assert_close(gradient, torch.tensor([[up, 0.0, 0.0], [0.0, down, 0.0]]))


def test_with_a_taxonomy_the_findings_are_taught_and_not_what_they_are_given_their_parents() -> None:
    """P(mass) = 0.95 · 0.05 is below ``low``, though P(mass | parent) is above ``high``."""
    tree = Taxonomy(["Mass", "Nodule/Mass", "Effusion"])
    logits = torch.tensor([[1.0, 2.0, 7.0], [5.0, -3.0, 7.0]])
    teacher = Sure(0.95, 0.05, 0.5, taxonomy=tree)
    p, q = logits[0, :2].sigmoid().prod(), logits[1, 1].sigmoid()
    pseudo = taught(FedLSM(GROUPS, weight=2.0, low=0.1, high=0.9), teacher, logits)
    torch.testing.assert_close(pseudo, -(torch.log1p(-p) + torch.log1p(-q)))
    teacher = Sure(0.95, 0.05, 0.5, taxonomy=tree)
    distilled = taught(FedMLP(GROUPS), teacher, logits)
    still = logits[:, 2].sigmoid() - 0.5
    torch.testing.assert_close(distilled, ((p - 0.95 * 0.05) ** 2 + (q - 0.05) ** 2 + (still**2).sum()) / 4)


def test_nothing_is_taught_where_every_label_is_known() -> None:
    rule: Any = FedMLP(GROUPS).lesson()
    rule.begin(Sure(0.9, 0.1, 0.5))
    batch = Batch(torch.zeros(2, 1, 4, 4), TARGETS.nan_to_num(1.0), torch.zeros(2))
    assert rule.loss(Sure(0.5, 0.5, 0.5), batch, torch.zeros(2, 3)) is None


@pytest.mark.parametrize(
    ("share", "steps", "trains"),
    [(0.5, 4, "HHTT"), (0.5, 3, "HHT"), (0.25, 4, "HTTT"), (0.5, 1, "B"), (0.0, 2, "TT"), (1.0, 2, "HH")],
)
def test_fedrep_trains_the_head_first_and_then_the_trunk(share: float, steps: int, trains: str) -> None:
    """H: the head alone learns, T: all but the head, B: both."""
    model, strategy = tiny_model(), FedRep(tiny_model().state_groups(), head_share=share)
    rule: Any = strategy.rule(None, {}, fake_trainer(fake_site("a")))  # type: ignore[arg-type]
    rule.begin(model)
    learned = ""
    for step in range(steps):
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        rule.before_step(model, step, steps)
        head, trunk = (any(p.grad is not None for p in part.parameters()) for part in (model.head, model.backbone))
        learned += "B" if head and trunk else "H" if head else "T"
    assert learned == trains


def test_fedprox_pulls_to_where_each_round_began() -> None:
    """Of ½ (w − 1)² with μ = 2: w ← w − 0.1 ((w − 1) + 2 (w − w_round)), twice a round, from 0."""
    run = ByHand.of(FedProx(GROUPS, mu=2.0), [StandIn("a", lambda w: ((w - 1) ** 2).sum() / 2, 2, 0.1)], [0.0])
    run.round()
    assert run.w.item() == pytest.approx(0.1 - 0.1 * (-0.9 + 2 * 0.1))  # 0.17
    run.round()
    assert run.w.item() == pytest.approx(0.253 - 0.1 * (-0.747 + 2 * 0.083))
