"""How far the top k of explanations provably holds, by smoothing, beside what an attack finds.

After Anani et al., "Pixel-level certified explanations via randomized smoothing", ICML 2025 (single pixels),
and Levine, Singla, Feizi, "Certifiably robust interpretation in deep learning", 2019 (overlap of the top k).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veridical.attacks.smoothed import NoisyTop, attack_top
from veridical.attribution.classifier import parameter_like
from veridical.attribution.method import Attribution, batch_maps, predict_classes
from veridical.attribution.methods import IntegratedGradients
from veridical.attribution.registry import create_attribution, describe_attribution, find_attribution
from veridical.data import Dataset
from veridical.data.dataset import load_source
from veridical.metrics.certificates import (
    NOISES,
    NoiseName,
    bound_votes,
    certify_pixels,
    clopper_pearson,
    overlap_range,
)
from veridical.metrics.intervals import SHARE, mean_interval
from veridical.metrics.maps import pictures
from veridical.metrics.spatial import topk_mask
from veridical.report import Curve, Panel, curves_illustration
from veridical.report.formats import Interval, level_text
from veridical.report.table import Column, Table, write_cell
from veridical.runtime.checking import Count, Length, Level, Limit, Size, Steps, StepSize, Width
from veridical.runtime.errors import argument_error
from veridical.runtime.files import Arrays
from veridical.runtime.options import AttributionChoice, Gallery, Placement, SubjectChoice, TargetName
from veridical.studies.maps import examples_panel, first_images, first_of_each_class, joined, map_row
from veridical.studies.study import (
    Case,
    Context,
    Study,
    StudyResult,
    Work,
    check_different,
    limit_count,
    list_settings,
)
from veridical.training.subject import load_model, load_subject

# Test images of one job.
STRETCH = 5
# Radii by default, in deviations of the noise.
_RADII = (0.25, 0.5, 1.0, 2.0)

_LOW = (
    "Of the k pixels that the smoothed map's top has at the image, the share that provably is in its top k "
    "at every image within the radius; a mean over images of bounds that hold each with the confidence."
)
_HIGH = (
    "The same share at the image that the attack found within the radius, as much as fresh noise leaves "
    "possible: no certificate, however tight, can say more. At radius 0 nothing was attacked, and what is "
    "between the bounds is for want of draws."
)
_GAP = "At most minus at least, paired by image: what neither certificate nor attack decides."
_FOUND = "The overlap at the attacked image as fresh votes have it, near ties and all."
_PIXELS = "Of the top k, the share of pixels that in the whole ball are in the top of most noisy maps."
_PIXELS_HIGH = "Of these at radius 0, what the attack left possible."
_ABSTAINED = "Pixels of the whole image that are shown to be neither in the top of most noisy maps nor out."
_LABEL = "Images whose noisy versions in the whole ball mostly have the explained class (Cohen et al., 2019)."
COLUMNS = (
    Column("overlap_low", "top k holds, at least", "share", "higher", _LOW),
    Column("overlap_high", "at most, by the attack", "share", None, _HIGH),
    Column("gap", "open", "points", "lower", _GAP),
    Column("overlap_found", "attack's estimate", "share", None, _FOUND),
    Column("pixels_low", "pixels certified", "share", "higher", _PIXELS),
    Column("pixels_high", "pixels, at most", "share", None, _PIXELS_HIGH),
    Column("abstained", "abstained", "share", "lower", _ABSTAINED),
    Column("label", "prediction certified", "share", "higher", _LABEL),
)
_MEASURED = [column.key for column in COLUMNS if column.key != "gap"]


@dataclass(frozen=True, kw_only=True)
class CertifyOptions(AttributionChoice, Gallery, SubjectChoice, Placement):
    """Certify how far explanations hold, and attack them beside it.

    Args:
        target: Class that is explained, the same at every noisy image: the model's prediction or the label.
        level: Share of an image's pixels that are its top.
        noise: Of a normal distribution, or uniform in an l2 ball.
        sigma: Deviations of the noise in each value, of images in [0, 1]; each is certified.
        radius: Radii of the l2 ball; None takes 1/4, 1/2, 1 and 2 of the greatest deviation. 0 is added.
        samples: Noisy images that vote for an image's top, at the image and at each attacked one.
        confidence: Probability with which the bounds of an image hold, for all its pixels and radii at once.
        examples: The first so many test images.
        nodes: Gradients of Integrated Gradients' maps.
        attack: By gradients of the smoothed map, or random directions, which explanations that cannot be
            differentiated get anyway.
        steps: Steps of the attack at each radius; 0 attacks nothing.
        attack_samples: Noisy images of a step.
        batch: Noisy images whose attributions are computed at a time.
        seed: Seed of all noise.
    """

    target: TargetName = "predicted"
    level: Level = 0.1
    noise: NoiseName = "normal"
    sigma: list[StepSize] = field(default_factory=lambda: [0.25])
    radius: list[Length] | None = None
    samples: Width = 1000
    confidence: Level = 0.999
    examples: Annotated[int, Limit(2, 10**9)] = 50
    nodes: Size = 8
    attack: Literal["climb", "random"] = "climb"
    steps: Steps = 20
    attack_samples: Count = 32
    gallery: Annotated[int, Limit(0, 1000)] = 4


class Certify(Study[CertifyOptions]):
    r"""Certify how far the top k of explanations holds, and attack it beside that.

    examples:
      veridical certify --run runs/natural --out runs/certify
      veridical certify --run runs/adversarial --attribution input-gradient integrated-gradients \
          --sigma 0.25 0.5 --radius 0.1 0.25 0.5 --samples 4000 --out runs/certify
      veridical certify --model cnn --weights cnn.pt --data fashion-mnist --steps 0 --out runs/mine

    The smoothed map says of each pixel how often it is among the top of the maps of noisy images. Its top k
    provably holds within an l2 ball up to some radius; an attack in the same ball shows how much does not.
    Between the two bounds lies what is not known. An interrupted study is continued by the same command.
    """

    name = "certify"
    title = "How far does the top of the maps provably hold?"
    question = "certificates of explanations"
    Options = CertifyOptions

    def prepare(self) -> None:
        """Load the subject and fill the gaps of the options."""
        options = self.options
        self.subject = load_subject(options, device=self.local_device)
        self.data = self.subject.data
        check_different("attribution", options.attribution)
        check_different("sigma", options.sigma)
        if options.radius is not None:
            check_different("radius", options.radius)
        self.sigmas = sorted(options.sigma)
        self.radii = sorted({0.0, *(options.radius or [self.sigmas[-1] * share for share in _RADII])})
        pixels = self.data.shape[1] * self.data.shape[2]
        self.k = max(1, round(options.level * pixels))
        if self.k == pixels:
            raise argument_error("level", options.level, f"fewer than all {pixels} pixels of an image")
        self.examples = limit_count(options.examples, len(self.data.test))
        self.methods, self.attacks = {}, {}
        for name in options.attribution:
            method = _create_method(name, options.nodes, options.seed, self.data, options.trust_code)
            self.methods[name] = describe_attribution(method)
            can_climb = find_attribution(name, trust_code=options.trust_code).is_differentiable is not False
            self.attacks[name] = options.attack if can_climb else "random"

    def config(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        options = self.options
        names = ("target", "level", "noise", "samples", "confidence", "nodes", "steps", "attack_samples")
        return {
            "run": self.subject.describe(),
            "data": self.data.describe(),
            "attributions": self.methods,
            "attacks": self.attacks,
            "sigmas": self.sigmas,
            "radii": self.radii,
            "k": self.k,
            "examples": self.examples,
            **{name: getattr(options, name) for name in (*names, "seed", "gallery")},
        }

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        return super().where() | self.subject.where(self.options.data_root)

    def cases(self) -> Iterable[Case]:
        """A few images by one explanation under one noise, at all radii."""
        options = self.options
        shown = first_of_each_class(self.data.test.labels[: self.examples], options.gallery)
        names = ("target", "noise", "samples", "confidence", "nodes", "steps", "attack_samples", "seed")
        for name, method in self.methods.items():
            for sigma in self.sigmas:
                for first in range(0, self.examples, STRETCH):
                    stretch = range(first, min(first + STRETCH, self.examples))
                    yield Case(
                        {
                            "weights": self.subject.digest,
                            "data": self.data.checksum,
                            "attribution": name,
                            "method": method,
                            "attack": self.attacks[name],
                            "sigma": sigma,
                            "radii": self.radii,
                            "k": self.k,
                            **{one: getattr(options, one) for one in names},
                            "images": list(stretch),
                            "shown": [index for index in shown if index in stretch],
                        },
                        group=_group(name, sigma),
                        stage="certifying and attacking",
                        label=f"{name}, noise {sigma:g}, images from {first}",
                        cost=float(len(stretch)),
                    )

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Certify and attack some images: arrays (images, radii) by `_MEASURED`.

        And float16 (shown, H, W), from 0 to 1, by `_PICTURES`.
        """
        model = load_model(context.where, values["weights"], trust_code=context.trust_code)
        data = load_source(context.where, values["data"])
        method = _create_method(
            values["attribution"], values["nodes"], values["seed"], data, context.trust_code
        )
        noisy = NoisyTop(
            model, method, values["k"], values["sigma"], values["seed"], context.batch, values["noise"]
        )
        split = data.test.subset(values["images"])
        like = parameter_like(model)
        inputs, labels = split.batch(range(len(split)), like.dtype, like.device)
        target = predict_classes(model, split).to(like.device) if values["target"] == "predicted" else labels
        rows: list[dict[str, Any]] = []
        drawn: list[list[NDArray[np.float16]]] = []
        for index, image, one in zip(values["images"], inputs, target, strict=True):
            row, flat = _measure_image(noisy, image, one, index, values)
            rows.append(row)
            if index in values["shown"]:
                own = batch_maps(method, model, image[None], one[None], [index], values["seed"])
                maps = [pictures(own.float())[0].cpu().numpy(), *flat]
                drawn.append([part.reshape(image.shape[1:]).astype(np.float16) for part in maps])
        found: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in _MEASURED}
        for place, name in enumerate(_PICTURES):
            kept = [maps[place] for maps in drawn]
            found[name] = np.stack(kept) if kept else np.zeros((0, *data.shape[1:]), np.float16)
        return found

    def results(self, work: Work) -> dict[str, Any]:
        """Intervals over images of every bound, by explanation, noise and radius."""
        found: dict[str, Any] = {}
        reached = 0
        for name in self.methods:
            for sigma in self.sigmas:
                arrays = self._joined(work, name, sigma)
                arrays["gap"] = arrays["overlap_high"] - arrays["overlap_low"]
                reached += int((arrays["gap"] < 0).sum())
                reached += int((arrays["pixels_high"] < arrays["pixels_low"]).sum())
                found.setdefault(name, {})[f"{sigma:g}"] = [
                    {"radius": radius}
                    | {
                        column.key: mean_interval(
                            arrays[column.key][:, place].tolist(),
                            undefined="exclude",
                            bounds=(-1.0, 1.0) if column.unit == "points" else SHARE,
                        )
                        for column in COLUMNS
                    }
                    for place, radius in enumerate(self.radii)
                ]
        notes = []
        if reached:
            notes.append(
                f"The attack reached below the certificate {reached:,} times, over images, radii and both "
                f"measures; at a confidence of {self.options.confidence:g} this should be rare. An "
                "explanation that is no function of image and number is not certified."
            )
        return {"examples": self.examples, "k": self.k, "attributions": found, "notes": notes}

    def _joined(self, work: Work, name: str, sigma: float) -> Arrays:
        return joined([work.arrays(case) for case in self.cases_of(_group(name, sigma))])

    def pictures(self, work: Work) -> Arrays:
        """Images and classes; "NAME/SIGMA/COLUMN" of every image (N, radii), and pictures of those shown."""
        arrays = first_images(self.data, self.examples, self.options.gallery)
        for name in self.methods:
            for sigma in self.sigmas:
                found = self._joined(work, name, sigma)
                arrays |= {f"{name}/{sigma:g}/{key}": value for key, value in found.items()}
        return arrays

    @classmethod
    def lead(cls, result: StudyResult) -> str:
        """What was measured."""
        config = result.config
        return (
            f"The top {level_text(config['level'])} of the maps of {config['examples']:,} test images of "
            f"{config['data']['name']}, smoothed by {NOISES[config['noise']].words}: how much of it "
            "is the same at every image within an l2 ball, at least (a certificate) and at most (an attack)."
        )

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """For each explanation and noise the greatest radius at which something is shown to hold."""
        sentences = [
            _finding(name, sigma, points)
            for name, entry in result.results["attributions"].items()
            for sigma, points in entry.items()
        ]
        return [*sentences, *result.results["notes"]]

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """Every bound, by explanation, noise and radius."""
        rows = [
            [f"{name}, noise {sigma}, radius {point['radius']:.6g}", *(point[c.key] for c in COLUMNS)]
            for name, entry in result.results["attributions"].items()
            for sigma, points in entry.items()
            for point in points
        ]
        return {"What holds, at least and at most": Table(["explanation", *COLUMNS], rows)}

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """Table, curves and pictures of every explanation, and what the numbers mean."""
        panels = [Panel(title, [_TABLE_TEXT], table=table) for title, table in cls.tables(result).items()]
        for name, entry in result.results["attributions"].items():
            panels += [_curves_panel(name, entry), _gallery_panel(result, name, next(iter(entry)))]
        return [*panels, Panel("What was measured", _meaning(result.config))]

    @classmethod
    def facts(cls, result: StudyResult) -> dict[str, Any]:
        """How it was measured, as names and values."""
        config = result.config
        explained = "prediction" if config["target"] == "predicted" else "label"
        facts: dict[str, Any] = {
            "Images": f"the first {config['examples']:,} test images of {config['data']['name']}",
            "Explained class": f"the image's {explained}, at every noisy image",
            "Top": f"{config['k']:,} pixels",
            "Noise": NOISES[config["noise"]].words,
            "Draws of noise": f"{config['samples']:,} for each bound",
            "Confidence": f"{config['confidence']:g} for each image",
            "Attack": f"{config['steps']} steps at each radius, of {config['attack_samples']} draws",
            "Seed": str(config["seed"]),
        }
        return facts | {
            name: list_settings({"attack": config["attacks"][name], **one})
            for name, one in config["attributions"].items()
        }


_PICTURES = ("map", "votes", "reach", "attacked")


def _group(name: str, sigma: float) -> str:
    return f"{name}, noise {sigma:g}"


def _create_method(name: str, nodes: int, seed: int, data: Dataset, trust_code: bool) -> Attribution:
    method = create_attribution(name, seed=seed, trust_code=trust_code, background=data.train)
    return method.with_nodes(nodes) if isinstance(method, IntegratedGradients) else method


def _measure_image(
    noisy: NoisyTop, image: Tensor, target: Tensor, index: int, values: Mapping[str, Any]
) -> tuple[dict[str, list[float]], list[NDArray[Any]]]:
    """One image's bounds at every radius, and pictures (H * W,) by `_PICTURES` after the first, from 0 to 1.

    Certified radii are shares of the greatest that so many draws can certify.
    """
    draws, confidence, k, radii = (values[name] for name in ("samples", "confidence", "k", "radii"))
    votes, agreed = noisy.votes(image, target, index, draws, "certificate")
    bounds, top = bound_votes(votes[None], draws, confidence), _top_votes(votes, k)
    label = clopper_pearson(np.array(agreed), draws, 1 - confidence)
    noise, size = NOISES[noisy.kind], image.numel()
    first = certify_pixels(bounds)[0] & top
    moved: list[Tensor | None] = [None] * len(radii)
    if values["steps"]:
        how = {"how": values["attack"], "steps": values["steps"], "samples": values["attack_samples"]}
        moved = [image, *attack_top(noisy, image, target, index, top[0], radii[1:], **how)]
    row: dict[str, list[float]] = {name: [] for name in _MEASURED}
    attacked = votes
    for radius, point in zip(radii, moved, strict=True):
        high, found, pixels_high = np.nan, np.nan, np.nan
        ball, label_ball = (noise.widen(one, radius, noisy.sigma, size) for one in (bounds, label))
        within, without = certify_pixels(ball)
        if point is not None:
            # Fresh noise: the attack has seen its own.
            attacked, _ = noisy.votes(point, target, index, draws, f"attacked at {radius:.6g}")
            there = bound_votes(attacked[None], draws, confidence)
            high, found = overlap_range(top, there)[1].item(), (top & _top_votes(attacked, k)).sum()
            pixels_high = (first & (there[1] > 0.5)).sum()
        row["overlap_low"].append(overlap_range(top, ball)[0].item() / k)
        row["overlap_high"].append(high / k)
        row["overlap_found"].append(found / k)
        row["pixels_low"].append((within & top).sum() / k)
        row["pixels_high"].append(pixels_high / k)
        row["abstained"].append(1 - (within | without).mean())
        row["label"].append(float(label_ball[0] > 0.5))
    all_votes = bound_votes(np.full_like(votes[None], draws), draws, confidence)
    reach, most = (noise.reach(low[0], noisy.sigma, size) for low in (bounds[0], all_votes[0]))
    return row, [votes / draws, reach / (most.max() or 1.0), attacked / draws]


def _top_votes(votes: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    return topk_mask(torch.from_numpy(votes[None]).double(), k).numpy()


# From a finished study to its page


def _finding(name: str, sigma: str, points: Sequence[Mapping[str, Any]]) -> str:
    """What holds, as a mean over images, at the greatest radius above 0 whose interval lies above 0."""
    group = f"{name} under noise of {sigma}"
    shown = [p for p in points if p["radius"] > 0 and Interval.read(p["overlap_low"]).sign > 0]
    if not shown:
        return f"{group}: at no radius is the mean over images shown to be above 0."
    point = shown[-1]
    at_least, at_most = (write_cell(point[key], "share") for key in ("overlap_low", "overlap_high"))
    sentence = (
        f"{group}: within the l2 radius {point['radius']:.6g} at least {at_least} of the top provably hold"
    )
    if point["overlap_high"]["value"] is None:
        return f"{sentence}; nothing was attacked."
    return f"{sentence}, and after the attack at most {at_most}: what is between the two is open."


_TABLE_TEXT = (
    "Certified is the top of the smoothed map, not of the map itself: of each pixel, how often it is among "
    "the top of maps of noisy images. Every number is a mean over images."
)


def _curves_panel(name: str, entry: Mapping[str, Sequence[Mapping[str, Any]]]) -> Panel:
    """Both bounds over the radius, a colour for each noise."""
    curves = []
    for colour, (sigma, points) in enumerate(entry.items()):
        radii = [point["radius"] for point in points]
        for key, words, dashed in (("overlap_low", "at least", False), ("overlap_high", "at most", True)):
            entries = [point[key] for point in points]
            if entries[0]["value"] is not None:
                title = f"noise {sigma}, {words}"
                curves.append(Curve.through(title, radii, entries, dashed=dashed, colour=colour))
    illustration = curves_illustration(
        curves,
        "Share of the smoothed map's top k that holds within the radius: at least, by the certificate, and "
        "dashed at most, by the attack. Bands: 95% intervals over images.",
        x_label="l2 radius",
        y_label="share of the top k",
        y_percent=True,
        y_bounds=(0.0, 1.0),
    )
    return Panel(f"What holds over the radius: {name}", illustrations=[illustration])


def _gallery_panel(result: StudyResult, name: str, sigma: str) -> Panel:
    """Images, their maps, votes, certified radii, and the votes at the last attacked image."""
    arrays, config = result.arrays, result.config
    columns = {"map": "map", "votes": "smoothed", "reach": "certified radius"}
    if config["steps"] and config["radii"][-1] > 0:
        columns["attacked"] = "smoothed, attacked"
    rows = [
        map_row(
            arrays["classes"][label],
            arrays["image"][place],
            [arrays[f"{name}/{sigma}/{key}"][place] for key in columns],
        )
        for place, label in enumerate(arrays["label"].tolist())
    ]
    text = (
        f"Noise {sigma}. The smoothed map: the share of noisy images in whose top a pixel is. The certified "
        "radius is how far that share provably stays above a half, on a scale up to the most that so many "
        f"draws can certify. The attacked image is that of radius {config['radii'][-1]:.6g}."
    )
    return examples_panel(f"Maps: {name}", [text], rows, list(columns.values()))


_THEOREMS = {
    "normal": (
        "Within the l2 radius R the normal quantile of a probability moves by R / sigma at most (Cohen et "
        "al., 2019)"
    ),
    "uniform": (
        "Within the l2 radius R a probability moves by at most the share of the noise's ball that the ball "
        "R away does not cover (after Wang and Kong, 2024)"
    ),
}


def _meaning(config: Mapping[str, Any]) -> list[str]:
    """Paragraphs on what is certified, and what is not."""
    return [
        (
            f"Each of {config['samples']:,} noisy versions of an image votes for its map's {config['k']:,} "
            "greatest pixels. From the votes come bounds of each pixel's probability (Clopper and Pearson), "
            f"for all pixels at once (Bonferroni). {_THEOREMS[config['noise']]}, whatever network and "
            "explanation, so that the bounds become bounds for the whole ball."
        ),
        (
            "The attack looks in the same ball, among images in [0, 1], for one where the top's pixels lose "
            "most votes. It may change the prediction: the certificate is about one class throughout. What "
            "it found is judged with fresh noise and the same bounds."
        ),
        (
            "A certificate is no praise: a map that ignores network and image holds in every ball. Nor is a "
            "lack of one a fault: more draws narrow what is open. Nothing is said of the map without noise."
        ),
    ]
