"""From finished attacks to one page: a model alone, or several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veridical.attacks.directions import DIRECTIONS
from veridical.attacks.protocols import PAPER_SETTINGS
from veridical.report import GalleryItem, ModelSection, Protocol, write_report
from veridical.report.measures import MEASURES
from veridical.studies.attacked import Attacked, check_comparable, training_log
from veridical.studies.published import CITATION, published, recalled

REPORT = "report.html"


def write_attack_report(
    path: Path,
    attacks: Mapping[str, Attacked],
    *,
    title: str,
    lead: str,
    notes: Sequence[str] = (),
    gallery: int = 8,
) -> Path:
    """Write the page of the attacks by title, the first being the one that others are compared with.

    `notes` stand before those of the results. The course of training is shown of runs whose folders are where
    they were. Raises UsageError where the models were not attacked in the same way on the same images: such
    numbers do not compare.
    """
    check_comparable(attacks)
    first = next(iter(attacks.values()))
    return write_report(
        path,
        title,
        lead,
        sections(attacks, gallery),
        protocol=_protocol(attacks),
        notes=[*notes, *_notes(attacks)],
        config={k: v for k, v in first.config.items() if k != "run"} | _runs(attacks),
        environment=first.document["environment"],
        training={name: training_log(attacked.folder_of_run) for name, attacked in attacks.items()},
        citation=CITATION,
    )


def sections(attacks: Mapping[str, Attacked], gallery: int = 8) -> list[ModelSection]:
    """What the page shows of each model, with a gallery of the same examples."""
    shown = _shown(list(attacks.values()), gallery)
    return [_section(name, attacked, shown) for name, attacked in attacks.items()]


def _section(name: str, attacked: Attacked, shown: Sequence[int]) -> ModelSection:
    run, results, arrays = attacked.config["run"], attacked.results, attacked.arrays
    where = attacked.config["data"]["name"] if _as_published(attacked) else ""
    weight = run["robust"] or {}
    told = [
        f"{key.replace('_', ' ')} {weight[key]:g}"
        for key in ("weight", "beta", "radius", "training_radius")
        if weight.get(key) is not None
    ]
    return ModelSection(
        title=name,
        metrics={key: results[key] for key in MEASURES if key in results},
        k=attacked.config["protocol"]["k"],
        subtitle=", ".join([f"{run['model']['name']}, {run['objective']}, {run['recipe']} recipe", *told]),
        published=published(where, run["objective"]),
        recalled=recalled(where, run["objective"]),
        gallery=[_item(attacked, place) for place in shown],
        trace=arrays["trace"][attacked.correct],
        distributions={key: arrays[key][attacked.correct] for key in ("kendall_tau", "topk_intersection")},
        curve=results.get("curve"),
    )


def _as_published(attacked: Attacked) -> bool:
    """Whether the literature's numbers are about the same attack: IG, top-k, in the paper's ball."""
    config = attacked.config
    row = PAPER_SETTINGS.get(config["data"]["name"])
    return (
        row is not None
        and config["norm"] == "linf"
        and abs(config["evaluation"]["radius"] - row.radius) < 1e-9
        and config["attribution"]["method"] == "IntegratedGradients"
        and config["attack"]["direction"] == "topk"
    )


def _shown(attacks: Sequence[Attacked], count: int) -> list[int]:
    """Examples for the gallery: the first of each class that all models classify correctly, then the next."""
    first = attacks[0].arrays
    pictured = len(first["image"])
    right = np.logical_and.reduce([attacked.correct[:pictured] for attacked in attacks])
    seen: dict[int, int] = {}
    ranked = []
    for place in np.flatnonzero(right).tolist():
        label = int(first["label"][place])
        ranked.append((seen.get(label, 0), place))
        seen[label] = seen.get(label, 0) + 1
    return sorted(place for _, place in sorted(ranked)[:count])


def _item(attacked: Attacked, place: int) -> GalleryItem:
    arrays = attacked.arrays
    return GalleryItem(
        image=_channels_last(arrays["image"][place]),
        map=arrays["saliency"][place],
        perturbed=_channels_last(arrays["perturbed"][place]),
        perturbed_map=arrays["perturbed_saliency"][place],
        label=str(arrays["classes"][int(arrays["label"][place])]),
        topk_intersection=float(arrays["topk_intersection"][place]),
        kendall_tau=float(arrays["kendall_tau"][place]),
    )


def _channels_last(image: Any) -> Any:
    return image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)


def _protocol(attacks: Mapping[str, Attacked]) -> Protocol:
    """The attack in the words of the page; it is the same for all models."""
    first = next(iter(attacks.values()))
    config, results = first.config, first.results
    data = config["data"]
    plan, evaluation = config["protocol"], config["evaluation"]
    final = plan["final_nodes"] or plan["judge_nodes"]
    method = config["attribution"]["method"]
    path = method == "IntegratedGradients"
    direction = config["attack"]["direction"]
    details: dict[str, object] = {
        "Images": f"the first {config['examples']:,} {data['split']} images of {data['name']}",
        "Explanation": f"{method}, {final['nodes']} {final['rule']} nodes from black" if path else method,
        "Protocol": plan["name"],
        "Direction": DIRECTIONS.get(direction).summary if direction in DIRECTIONS else direction,
        "Pixels attacked / compared": f"{config['attack'].get('k', 'all')} / {plan['k']}",
        "Climbs of the attack on explanations": len(plan["climbs"]),
        "Steps of each": f"{plan['steps']} of {plan['step_size']:.4g}",
        "Attack on predictions": f"{evaluation['pgd_steps']} steps of {evaluation['pgd_step_size']:.4g} "
        "from one random start, last iterate",
        "Left as they were, and counted as unharmed": ", ".join(
            f"{name} {_share(attacked.results['not_found'])}" for name, attacked in attacks.items()
        ),
        "Gradients per explanation attacked": f"{results['gradient_evaluations']['explanation']:,}",
    }
    return Protocol(config["evaluation"]["radius"], config["norm"], details)


def _share(interval: Mapping[str, Any]) -> str:
    return "(none attacked)" if interval["value"] is None else f"{interval['value']:.1%}"


def _notes(attacks: Mapping[str, Attacked]) -> list[str]:
    """Each note once, with the models that it is about."""
    about: dict[str, list[str]] = {}
    for name, attacked in attacks.items():
        for note in attacked.results["notes"]:
            about.setdefault(note, []).append(name)
    found = [
        note if len(names) == len(attacks) else f"{', '.join(names)}: {note}" for note, names in about.items()
    ]
    for name, attacked in attacks.items():
        whole = attacked.results["natural_accuracy_of_all"]
        if whole["n"] > attacked.results["examples"]:
            images = f"{whole['n']:,} {attacked.config['data']['split']} images"
            found.append(f"{name} classifies {whole['value']:.1%} of all {images} correctly.")
    climbs = len(next(iter(attacks.values())).config["protocol"]["climbs"])
    if climbs > 1:
        found.append(f"In the trace the {climbs} climbs of the attack stand one behind the other.")
    return found


def _runs(attacks: Mapping[str, Attacked]) -> dict[str, object]:
    """What the models were trained with: all of one, of several by title."""
    runs = {name: attacked.config["run"] for name, attacked in attacks.items()}
    return {"run": next(iter(runs.values())) if len(runs) == 1 else runs}
