"""Scores that the task trains: gates change no value and no gradient but that of the scores, and the scores learn."""

from __future__ import annotations

import pytest
import torch
from tiny_backbones import MAKERS, PRUNING, make
from torch import nn

from mmssmprune.models.flops import count_on_meta, on_meta
from mmssmprune.pruning import IMPORTANCE, LayerTrace, Stage, TokenState, choose_tokens, snake_scan
from mmssmprune.pruning.gate import Gate
from mmssmprune.pruning.importance import LearnedScore, score_tokens

LEARNED = dict(PRUNING, importance='learned')


def test_a_gate_weighs_the_update_of_its_token():
    score = torch.randn(2, 5, requires_grad=True)
    chosen = torch.tensor([[0, 2], [1, 4]])
    hidden, residual = torch.randn(2, 2, 3), torch.randn(2, 2, 3)
    before = torch.randn(2, 2, 3)
    (first, second), after = Gate.of(score, chosen, (before,)).passed((hidden, residual))
    assert torch.equal(first, hidden)
    assert second is residual
    assert torch.equal(after.since, hidden + residual)
    towards = torch.randn(2, 2, 3)
    (first * towards).sum().backward()
    copy = score.detach().requires_grad_()
    opening = torch.sigmoid(copy - copy.mean(1, keepdim=True)).gather(1, chosen)
    (opening * ((hidden + residual - before) * towards).sum(-1)).sum().backward()
    assert torch.allclose(score.grad, copy.grad)
    assert torch.allclose(score.grad.sum(1), torch.zeros(2), atol=1e-6)  # only the order counts


@pytest.mark.parametrize('kind', MAKERS)
def test_every_scorer_gets_a_gradient_and_the_model_none_from_it(kind, monkeypatch):
    images, gradients = torch.randn(2, 3, 64, 96), []
    for gated in (True, False):
        model = make(kind, pruning=LEARNED).train()
        if not gated:
            monkeypatch.setattr(Gate, 'passed', lambda self, streams: (streams, self))
        torch.manual_seed(1)
        sum(out.square().sum() for out in model(images)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(grad.abs().sum() > 0 for name, grad in gradients[0].items() if '.scorers.' in name)
    scorers = [name for name in gradients[0] if '.scorers.' in name]
    assert len(scorers) == 10  # five for each of two prunings
    for name, grad in gradients[0].items():
        assert name in scorers or torch.equal(grad, gradients[1][name]), name


def test_scores_learn_whose_updates_are_worth_most():
    """Updates of one half of the tokens lower the loss and those of the other half raise it; the first shall stay."""
    torch.manual_seed(0)
    scorer = LearnedScore(Stage([nn.Identity()], 4, d_inner=16, scored=(0,)))
    tokens, optimizer = TokenState.dense(snake_scan(4, 6), (4, 6)), torch.optim.Adam(scorer.parameters(), lr=0.01)
    kinds, update = torch.randn(2, 16), torch.randn(4)
    for _ in range(100):
        is_good = torch.rand(8, 24) < 0.5
        y = torch.randn(8, 24, 16) + kinds[is_good.long()]
        score = score_tokens(scorer, LayerTrace(y, (), layer=0), tokens, learns=True)
        chosen, x = choose_tokens(score, 12), torch.randn(8, 12, 4)
        (after,), _ = Gate.of(score, chosen, (x,)).passed((x + update,))
        worth = 2.0 * is_good.gather(1, chosen) - 1
        optimizer.zero_grad()
        (-worth * (after @ update)).mean().backward()
        optimizer.step()
    score = score_tokens(scorer.eval(), LayerTrace(y, (), layer=0), tokens)
    assert is_good.gather(1, choose_tokens(score, 8)).float().mean() > 0.9


def test_noise_in_training_only_and_by_the_seed():
    model = make('vim_cls', pruning=LEARNED)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        quiet = [model(images)[-1] for _ in range(2)]
        loud = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            loud.append(model.train()(images)[-1])
    assert torch.equal(*quiet)
    assert torch.equal(loud[0], loud[1])
    assert not torch.equal(loud[0], loud[2])


def test_other_scores_have_no_gradient():
    model = make('plain_mamba', pruning=PRUNING).train()
    seen = []
    prune = model.pruner.prune
    model.pruner.prune = lambda *args: seen.append(prune(*args)) or seen[-1]
    model(torch.randn(1, 3, 64, 64))
    assert all(tokens.gate is None for _, tokens in seen)


def test_a_dense_checkpoint_is_said_to_lack_the_scorers():
    model = make('plain_mamba', pruning=LEARNED)
    (names,) = [names for choice, names in model.pruner.to_be_trained().items() if choice.startswith('importance')]
    assert len(names) == 10
    assert 'learned' in IMPORTANCE.needing('gradient')


def test_the_scorers_are_counted():
    counts = [
        count_on_meta(on_meta(make('plain_mamba', pruning=p)), (64, 96))
        for p in (LEARNED | dict(importance='clip'), LEARNED)
    ]
    d_inner, tokens = 48, 24 + 15  # 4x6 cells at the first pruning, 60 % of them at the second
    assert counts[1] - counts[0] == tokens * (d_inner * d_inner // 4 + d_inner // 4)


def test_what_is_made_after_the_scorers_starts_as_without_them():
    drawn = []
    for pruning in (PRUNING, LEARNED):
        torch.manual_seed(0)
        MAKERS['plain_mamba'](pruning=pruning)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
