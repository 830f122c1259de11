"""The protocol `paper` against a slow implementation of the published evaluation, written here on its own."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attacks.attribution import attack
from veridical.attacks.ball import Linf
from veridical.attacks.directions import TopK
from veridical.attacks.protocols import protocol
from veridical.attribution.classifier import predict
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.path import Quadrature

from .conftest import Trained

RADIUS, ALPHA, STEPS, NODES, ATTACKED, COMPARED = 0.15, 0.02, 12, 100, 14, 10


def slow_map(model: nn.Module, image: Tensor, label: int, graph: bool = False) -> Tensor:
    """|IG| of the label's logit from black, right Riemann, summed over channels, normalised to sum H W."""
    total = torch.zeros_like(image)
    for j in range(1, NODES + 1):
        point = image * (j / NODES)
        if not graph:
            point = point.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(point[None])[0, label], point, create_graph=graph)
        total = total + gradient
    saliency = (image * total / NODES).abs().sum(0)
    return saliency * saliency.numel() / saliency.sum()


def softplus_copy(model: nn.Module) -> nn.Module:
    return nn.Sequential(*[nn.Softplus() if isinstance(m, nn.ReLU) else m for m in model.children()])


def top(saliency: Tensor, k: int) -> set[int]:
    flat = saliency.detach().numpy().ravel()
    return set(np.argsort(flat, kind="stable")[-k:].tolist())


def slow_attack(
    model: nn.Module, image: Tensor, label: int
) -> tuple[float, float, float, Tensor, list[float]]:
    """Intersection, tau, rho, the kept image and the trace of tau (NaN where the label changed)."""
    twin = softplus_copy(model)
    clean = slow_map(model, image, label).detach()
    target = torch.zeros(64, dtype=torch.float64)
    target[sorted(top(clean, ATTACKED))] = 1
    current, best, kept = image.clone(), 1.0, None
    trace = []
    for _ in range(STEPS):
        point = current.clone().requires_grad_(True)
        score = -(slow_map(twin, point, label, graph=True).reshape(-1) * target).sum()
        (gradient,) = torch.autograd.grad(score, point)
        current = current + ALPHA * gradient.sign()
        current = torch.minimum(torch.maximum(current, image - RADIUS), image + RADIUS).clamp(0, 1)
        if int(model(current[None]).argmax()) != label:
            trace.append(float("nan"))
            continue
        new = slow_map(model, current, label).detach()
        tau = float(kendalltau(clean.numpy().ravel(), new.numpy().ravel()).statistic)
        trace.append(tau)
        if tau < best:
            best, kept = tau, (current, new)
    if kept is None:
        return 1.0, 1.0, 1.0, image, trace
    overlap = len(top(clean, COMPARED) & top(kept[1], COMPARED)) / COMPARED
    rho = float(spearmanr(clean.numpy().ravel(), kept[1].numpy().ravel()).statistic)
    return overlap, best, rho, kept[0], trace


def test_paper_is_the_published_evaluation(trained: Trained) -> None:
    model, inputs, _ = trained
    # Half of them are mixtures, whose label is about to change.
    inputs = torch.cat([inputs[:3], 0.5 * (inputs[:3] + inputs[1:4])])
    target = predict(model, inputs).argmax(1)
    right = Quadrature("right", NODES)
    paper = protocol("paper", k=COMPARED, steps=STEPS, step_size=ALPHA)
    assert (paper.climb_nodes, paper.judge_nodes, paper.final_nodes) == (right, right, None)
    assert len(paper.climbs) == 1
    result = attack(
        model,
        inputs,
        target,
        attribution=IntegratedGradients(),
        attack=TopK(ATTACKED, compared=COMPARED),
        ball=Linf(RADIUS),
        protocol=paper,
        rows=400,
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    changed = 0
    for i in range(len(inputs)):
        overlap, tau, rho, kept, trace = slow_attack(model, inputs[i], int(target[i]))
        assert_close(result.inputs[i], kept, rtol=0, atol=1e-12)
        assert float(result.topk_intersection[i]) == pytest.approx(overlap, abs=1e-12)
        assert float(result.kendall_tau[i]) == pytest.approx(tau, abs=1e-12)
        assert float(result.spearman[i]) == pytest.approx(rho, abs=1e-12)
        np.testing.assert_allclose(result.trace[i].numpy(), trace, rtol=0, atol=1e-12)
        changed += bool(np.isnan(trace).any())
    assert result.found.sum() >= 5
    assert changed >= 1, "the case must have an example whose label changes on the way"


def test_paper_fast_is_judged_by_the_papers_map(trained: Trained) -> None:
    """Ten nodes choose which iterates are judged; the numbers are those of 100 right Riemann nodes."""
    model, inputs, target = trained
    method = IntegratedGradients(nodes=NODES, rule="right")
    result = attack(
        model,
        inputs,
        target,
        attribution=IntegratedGradients(),
        attack=TopK(ATTACKED, compared=COMPARED),
        ball=Linf(RADIUS),
        protocol=protocol("paper-fast", k=COMPARED, steps=STEPS, step_size=ALPHA),
    )
    assert_close(result.clean_map, method(model, inputs, target))
    assert_close(result.perturbed_map, method(model, result.inputs, target))
    for i in range(len(inputs)):
        clean, new = (m[i].abs().sum(0).numpy().ravel() for m in (result.clean_map, result.perturbed_map))
        if result.found[i]:
            tau = kendalltau(clean, new).statistic
            assert float(result.kendall_tau[i]) == pytest.approx(tau, abs=1e-12)
