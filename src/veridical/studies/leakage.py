"""Feature leakage on BlockMNIST: how much explanations mark in a block that tells nothing, and why.

Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021, sections 5, 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.attacks.ascent import pgd
from veridical.attacks.ball import ball
from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.method import Attribution, dataset_maps, predict_classes
from veridical.attribution.registry import create_attribution
from veridical.data.block_mnist import block_mnist
from veridical.data.dataset import MaskedDataset, Split, describe_source
from veridical.metrics.intervals import SHARE, mean_interval, over_runs, proportion_interval, two_intervals
from veridical.metrics.localisation import (
    LEVELS,
    cosine_within,
    discriminative_pixels,
    left_behind,
    mass_share,
)
from veridical.report import Curve, Interval, Panel, main_interval, shares_grid
from veridical.report.formats import level_text, percent
from veridical.report.table import Column, Table, write_cell
from veridical.runtime.checking import POSITIONAL, Checked, Count, FilePath, Share, Steps, as_path
from veridical.runtime.errors import argument_error
from veridical.runtime.files import Arrays
from veridical.runtime.options import (
    AttributionChoice,
    BlockDesign,
    BlockOptions,
    DataRoot,
    Gallery,
    NormName,
    Placement,
    PositionName,
    TrainingGrid,
)
from veridical.runtime.seeds import stream
from veridical.studies.maps import (
    RUN,
    check_data,
    describe_methods,
    examples_panel,
    first_of_each_class,
    make_topk_curve,
    map_measures,
    map_row,
    measures_over_seeds,
    scaled_saliency,
    topk_panel,
    train_step,
    undertrained,
)
from veridical.studies.study import (
    Case,
    Context,
    Study,
    StudyResult,
    Work,
    check_different,
    distinct_titles,
    limit_count,
    list_settings,
    table_of,
)
from veridical.training.penalties import check_supported, training_title
from veridical.training.recipes import Settings
from veridical.training.run import load
from veridical.training.task import predict_cost, study_settings, training_fields

# The data sets by where the digit stands.
TITLES: Mapping[str, str] = {
    "random": "BlockMNIST",
    "top": "BlockMNIST-Top",
    "bottom": "BlockMNIST-Bottom",
}

# A prediction of at least this probability counts as saturated.
SURE = 0.999

ATTACK_STEPS = 20
_ROWS = 500

# Test images whose maps are kept for the page, the first ones of each class.
PICTURES = 12

# Share of a block's pixels that count as those which tell the classes apart.
DISCRIMINATIVE = 0.25

# Training images by which these pixels are found.
LOOKED_AT = 5000

# A digit's own pixels are those of at least this share of its greatest grey level.
INK = 0.5

# What the pairs measure; see `_compare_pairs`.
PAIRED = ("left_at_ink", "left_in_block", "same_digit", "same_class", "other_class")

# Differences of cosines: what is of the very digit that is elsewhere, and what of its class alone.
APART = (("of_the_digit", "same_digit", "same_class"), ("of_the_class", "same_class", "other_class"))

HEADLINE_LEVEL = 0.05
# Levels that stand in the table; sentences have the one above, curves have all.
SHOWN = (0.05, 0.1, 0.2)

CAPTION = "Values with their 95% intervals, over seeds where there are several, else over images."
_SHARE = (
    "Of the k% of coordinates with the greatest |attribution|, the share that lies in the null block (Shah, "
    "Jain, Netrapalli, NeurIPS 2021). Equal values, such as exact zeros, are ordered at random for each "
    "image, so that zeros say nothing; how many there are is in the table."
)
_AUC = "Of |attribution| as a sign of the null block; 0.5 says nothing, 0 puts the digit's block first."
_OTHERS = (
    "The share of |attribution| in the null block on BlockMNIST minus that on BlockMNIST-Top, of the same "
    "digits with the same null content, in percentage points. The two trainings differ in whether other "
    "instances have their digit in that block; in nothing else but what follows from it, as that each place "
    "sees fewer digits. It takes several seeds: which block is null differs, too, and initial weights alone "
    "mark one more than the other."
)
_LEFT = (
    "|attribution| in the block that the digit moves to, before it stands there, as a share of the sum "
    "before and after, over the digit's own pixels. 0% if the block is marked only with the digit in it, 50% "
    "if it is marked as strongly without."
)
_SAME_DIGIT = (
    "Of the signed maps in that block before and after the move. What it has more than that of the same "
    "class is a picture of the very digit that is elsewhere."
)
_SAME_CLASS = (
    "With the map of another image of the same class, its digit there too. What it has more than that of "
    "another class is of its class alone, as the map of a linear model, one for all images."
)
_TELLING = (
    "Of the |attribution| in the null block, the share on the quarter of a block's pixels that tells the "
    "classes apart where a digit stands; 25% is chance."
)
PAIR_COLUMNS = (
    Column("others/mass", "null share through other instances, points", "points", None, _OTHERS),
    Column("left_at_ink", "left at the digit's pixels", "share", None, _LEFT),
    Column("left_in_block", "left in the block", "share", None, "The same over the whole block."),
    Column("same_digit", "cosine, same digit", "number", None, _SAME_DIGIT),
    Column("same_class", "cosine, same class", "number", None, _SAME_CLASS),
    Column("other_class", "cosine, other class", "number", None, "The same of an image of another class."),
    Column("telling", "null mass at discriminative pixels", "share", None, _TELLING),
)
_LEVEL = "Mean size of a coordinate; in logits per input unit for the input gradient."
SURE_COLUMNS = (
    Column("loss", "test loss", "number"),
    Column("margin", "margin, logits", "number", None, "By how much the predicted logit is above the next."),
    Column("sure", "sure", "share", None, "Predictions of at least 99.9%."),
    Column("signal_level", "attribution, digit's block", "number", None, _LEVEL),
    Column("null_level", "attribution, null block", "number", None, _LEVEL),
)
SURE_TEXT = (
    "A model that is sure of everything has hardly any loss left, and training in a ball then hardly asks "
    "for less attribution in the null block."
)
_ATTACKED = "On the first test images, after 20 steps of projected gradient descent in the ball."

Ball = tuple[NormName, float]
_ROBUST = ("weight", "beta", "beta_from", "inner_steps", "radius_warm_up")


@dataclass(frozen=True, kw_only=True)
class LeakageOptions(TrainingGrid, BlockDesign, AttributionChoice, Gallery, DataRoot, Placement):
    """Train on BlockMNIST and measure how much of the explanations lies in the block that tells nothing.

    Args:
        data: The kind of images; only block-mnist so far.
        position: Where the digit stands, each of which is trained on: random is BlockMNIST, top is
            BlockMNIST-Top. Pairs with the digit moved are measured for random.
        norm: Norm of the balls; one for all radii, or one for each.
        radius: Radii of the balls, each of which is trained; None takes 0.1 for linf and 1.0 for l2.
        inner_steps: Steps of the inner ascent; None takes the recipe's.
        radius_warm_up: Share of the training in which the ball grows from nothing to its radius.
        attacked: Test images whose predictions are attacked; None takes all.
        gallery: Images shown in the report, at most 12.
        seed: First seed of the trainings, and the seed of ties and attacks.
    """

    data: Literal["block-mnist"] = "block-mnist"
    position: list[PositionName] = field(default_factory=lambda: ["random", "top"])
    model: str = "mlp"
    norm: list[NormName] = field(default_factory=lambda: ["linf"])
    inner_steps: Steps | None = None
    radius_warm_up: Share | None = None
    attacked: Count | None = 500


@dataclass(frozen=True)
class Condition:
    """One kind of training on one data set; settings are those of its first seed."""

    position: PositionName
    title: str
    settings: Settings

    @property
    def name(self) -> str:
        """Training and data, as a row of a table is named."""
        return f"{self.title}, {TITLES[self.position]}"


class Leakage(Study[LeakageOptions]):
    r"""How much of an explanation lies where nothing tells, and whether other instances put it there.

    examples:
      veridical leakage --data block-mnist --source mnist --model mlp --model-options.width 512 \
          --objective natural adversarial ig-sum-norm --radius 0.1 0.2 --seeds 5 --out runs/leakage
      veridical leakage --model cnn --classes two --norm linf l2 --radius 0.1 1.0 --out runs/two

    Every objective is trained at every radius, with the digit in a random block (BlockMNIST) and always on
    top (BlockMNIST-Top), --seeds times. Trainings are jobs: an interrupted study is continued by the same
    command, and studies that share a --store share trainings. DIR/report.html shows what came out,
    DIR/result.json has the numbers.
    """

    name = "leakage"
    title = "Do explanations mark what is in the image, or what is in others?"
    question = "feature leakage"
    Options = LeakageOptions

    def prepare(self) -> None:
        """Make the data, and fill every gap of the options."""
        options = self.options
        for name in ("position", "objective"):
            check_different(name, getattr(options, name))
        check_supported(options.objective, {name: getattr(options, name) for name in _ROBUST})
        self.balls = _balls_of(options)
        for norm, radius in self.balls:
            ball(norm, radius)  # refuses radii that cannot be
        self.blocks = {at: self._blocks(at) for at in options.position}
        self.data = {at: _make_blocks(blocks, options.data_root) for at, blocks in self.blocks.items()}
        # Apart, for those that compare with images of the data.
        self.methods = {at: describe_methods(options, data) for at, data in self.data.items()}
        self.conditions = [
            Condition(position, training_title(settings.to_dict()), settings)
            for position, data in self.data.items()
            for settings in study_settings(options, self.balls, data)
        ]
        self.titles = list(dict.fromkeys(one.title for one in self.conditions))
        self.seeds = range(options.seed, options.seed + options.seeds)
        images = len(next(iter(self.data.values())).test)
        self.explained = limit_count(options.explained, images)
        self.attacked = limit_count(options.attacked, images)

    def _blocks(self, position: PositionName) -> BlockOptions:
        given = {name: getattr(self.options, name) for name in BlockDesign.__dataclass_fields__}
        given["source"] = describe_source(self.options.source, self.options.data_root, {})["data"]
        return BlockOptions(position=position, seed=0, **given)

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        models: dict[str, dict[str, Any]] = {}
        for one in self.conditions:
            models.setdefault(one.title, {})[one.position] = training_fields(one.settings)
        return {
            "data": {position: data.describe() for position, data in self.data.items()},
            "models": models,
            "seeds": list(self.seeds),
            "balls": [list(one) for one in self.balls],
            "attributions": self.methods[self.options.position[0]],
            "explained": self.explained,
            "attacked": self.attacked,
            "levels": list(LEVELS),
            "ties": "random",
            "seed": self.options.seed,
        }

    def cases(self) -> Iterable[Case]:
        """For each condition and seed a training, the attack on its predictions, and its maps."""
        seed = self.options.seed
        for number, one in enumerate(self.conditions):
            data = {
                "blocks": asdict(self.blocks[one.position]),
                "data": {"checksum": self.data[one.position].checksum},
            }
            for trained in self.seeds:
                training = Case(
                    {**data, "training": training_fields(one.settings), "seed": trained},
                    group=str(number),
                    seed=trained,
                    step="train",
                    stage="training",
                    label=f"{one.name}, seed {trained}",
                    cost=predict_cost(one.settings),
                )
                yield training
                then = replace(training, after=training, stage="explaining", cost=5.0)
                # Attacked in every ball, also those that it was not trained in.
                attack = {
                    "balls": [list(around) for around in self.balls],
                    "attacked": self.attacked,
                    "steps": ATTACK_STEPS,
                    "batch": _ROWS,
                    "sure": SURE,
                }
                yield replace(
                    then,
                    values={**data, **attack, "seed": seed},
                    step="attack",
                    label=f"{training.label}, attacked",
                    cost=5.0 * len(self.balls),
                )
                for name, method in self.methods[one.position].items():
                    values = {**data, "attribution": {"name": name, **method}, "seed": seed}
                    values |= {"explained": self.explained, "levels": list(LEVELS)}
                    values |= {"discriminative": DISCRIMINATIVE, "looked_at": LOOKED_AT, "ink": INK}
                    # Where the digit never moves in training, an image with a moved one is none that the
                    # model knows.
                    values["pairs"] = list(PAIRED) if one.position == "random" else []
                    yield replace(then, values=values, step="explain", label=f"{training.label}, {name}")

    @staticmethod
    def train(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Train one classifier on blocks."""
        run = train_step(_load_blocks(values, context), values, context)
        timing = run.result["timing"]
        return {
            "accuracy": run.result["results"]["natural_accuracy"],
            "training_seconds": timing["training_seconds"],
            "examples_per_second": timing["examples_per_second"],
        }

    @staticmethod
    def attack(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """A run's accuracy under attack, and how sure it is of what it sees, each with its interval.

        under_attack by ball; margin: the predicted logit above the next; sure: share of predictions of at
        least probability SURE; loss: mean cross-entropy of the test images.
        """
        data, model = _load_blocks(values, context), _load_model(context)
        count = values["attacked"]
        under_attack = {}
        for norm, radius in values["balls"]:
            hits = 0
            # The stream is keyed by the batch's first image: batches are of a fixed length here.
            for first in range(0, count, _ROWS):
                inputs, target = _batch(model, data, first, count)
                generator = stream(values["seed"], "leakage attack", first)
                moved = pgd(
                    model, inputs, target, ball(norm, radius), steps=ATTACK_STEPS, generator=generator
                )
                hits += int((predict(model, moved).argmax(1) == target).sum())
            under_attack[_ball_name(norm, radius)] = proportion_interval(hits, count)
        images = len(data.test)
        parts = [_batch(model, data, first, images)[0] for first in range(0, images, _ROWS)]
        logits = torch.cat([predict(model, part).cpu() for part in parts]).double()
        greatest = logits.topk(2, dim=1).values
        sure = int((logits.softmax(1).amax(1) >= SURE).sum())
        loss = nn.functional.cross_entropy(logits, data.test.labels, reduction="none")
        return {
            "under_attack": under_attack,
            "margin": mean_interval(greatest[:, 0] - greatest[:, 1]),
            "sure": proportion_interval(sure, len(logits)),
            "loss": mean_interval(loss),
        }

    @staticmethod
    def explain(values: Mapping[str, Any], context: Context) -> Arrays:
        """Explain the first test images and measure where the maps lie: see `measure_leakage`."""
        data, model = _load_blocks(values, context), _load_model(context)
        moved = None
        if values["pairs"]:
            # One training image is enough: only the test images are looked at.
            few = replace(
                BlockOptions(**values["blocks"]), train_examples=1, test_examples=values["explained"]
            )
            moved = block_mnist(few, context.data_root, moved=1)
        name = values["attribution"]["name"]
        method = create_attribution(
            name, seed=values["seed"], trust_code=context.trust_code, background=data.train
        )
        return measure_leakage(
            model,
            data,
            moved,
            method,
            count=values["explained"],
            levels=values["levels"],
            seed=values["seed"],
            batch=context.batch,
        )

    def results(self, work: Work) -> dict[str, Any]:
        """The results by title of the training and position of the digit, and what other instances add."""
        models: dict[str, dict[str, Any]] = {title: {} for title in self.titles}
        maps: dict[tuple[str, str, str], list[Arrays]] = {}
        for number, one in enumerate(self.conditions):
            trained, attacked = (
                [work.plain(case) for case in self.cases_of(str(number), step)]
                for step in ("train", "attack")
            )
            for case in self.cases_of(str(number), "explain"):
                kind = (case.values["attribution"]["name"], one.title, one.position)
                maps.setdefault(kind, []).append(work.arrays(case))
            models[one.title][one.position] = {
                "seeds": list(self.seeds),
                "accuracy": over_runs([run["accuracy"] for run in trained], SHARE),
                "under_attack": {
                    around: over_runs([run["under_attack"][around] for run in attacked], SHARE)
                    for around in attacked[0]["under_attack"]
                },
                "sure": over_runs([run["sure"] for run in attacked], SHARE),
                **{name: over_runs([run[name] for run in attacked]) for name in ("margin", "loss")},
                "maps": {
                    name: _measures(maps[name, one.title, one.position]) for name in self.options.attribution
                },
            }
        # The same digits with the same null content and the same seeds: what BlockMNIST has more than
        # BlockMNIST-Top is there since other instances have their digit in that block.
        leakage: dict[str, Any] = {}
        for (name, title, position), runs in maps.items():
            others = maps.get((name, title, "top"))
            if position == "random" and others:
                leakage.setdefault(name, {})[title] = _differences(runs, others)
        return {
            "explained": self.explained,
            "attacked": self.attacked,
            "ties": "random",
            "models": models,
            "leakage": leakage,
        }

    def timing(self, work: Work) -> dict[str, Any]:
        """Of every kind of training the mean seconds, over data and seeds."""
        seconds: dict[str, list[float]] = {}
        for number, one in enumerate(self.conditions):
            runs = [work.plain(case) for case in self.cases_of(str(number), "train")]
            seconds.setdefault(one.title, []).extend(float(run["training_seconds"]) for run in runs)
        return {"seconds_of_a_training": {title: round(fmean(times), 3) for title, times in seconds.items()}}

    def pictures(self, work: Work) -> Arrays:
        """Of every data set the first images of each class, and the maps of the first seed's models.

        By position: label and index (p,), image uint8 (p, C, H, W), signal bool (p, H, W); by position,
        attribution and number of the title: saliency float16 (p, H, W), null_share at all levels and correct.
        """
        arrays: Arrays = {"classes": np.asarray(next(iter(self.data.values())).classes, dtype=np.str_)}
        for number, one in enumerate(self.conditions):
            shown = slice(self.options.gallery)
            for case in self.cases_of(str(number), "explain")[: len(self.methods[one.position])]:
                name, first = case.values["attribution"]["name"], work.arrays(case)
                index = first["index"][shown]
                arrays[f"{one.position}/index"] = index
                for part in ("label", "image", "signal"):
                    arrays[f"{one.position}/{part}"] = first[f"picture/{part}"][shown]
                place = f"{one.position}/{name}/{self.titles.index(one.title)}"
                arrays[f"{place}/saliency"] = first["picture/saliency"][shown]
                arrays[f"{place}/null_share"] = first["null/topk"][index]
                arrays[f"{place}/correct"] = first["correct"][index]
        return arrays

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """For each attribution the null block's shares, pairs with the digit moved; how sure models are."""
        tables: dict[str, Table] = {}
        for name in result.config["attributions"]:
            tables |= _tables_of_maps(result, name)
        sure = _rows(result, next(iter(result.config["attributions"])))
        return tables | {"How sure the models are": table_of("training, data", SURE_COLUMNS, sure)}

    @classmethod
    def lead(cls, result: StudyResult) -> str:
        """What the images are, and what is asked."""
        return (
            "Each image is a block that shows a digit and one that tells nothing, the null block. How much "
            f"of the explanations of {result.results['explained']:,} test images lies there, and why?"
        )

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """A sentence for each attribution and training, from the intervals alone."""
        levels = result.config["levels"]
        level = HEADLINE_LEVEL if HEADLINE_LEVEL in levels else levels[0]
        sentences = []
        for name in result.config["attributions"]:
            for title, by_position in result.results["models"].items():
                shares, warnings = [], ""
                for position, model in by_position.items():
                    share = model["maps"][name]["null"]["topk"][levels.index(level)]
                    shares.append(f"{write_cell(share, 'share')} on {TITLES[position]}")
                    warning = undertrained(model["accuracy"], result.config["data"][position]["num_classes"])
                    warnings += f" On {TITLES[position]} it {warning}." if warning else ""
                sentence = f"{title}: of the top {level_text(level)} of {name}, {' and '.join(shares)} "
                sentence += "lie in the null block."
                leakage = result.results["leakage"].get(name, {}).get(title)
                # Maps of a model that has not learnt mean nothing.
                added = "" if leakage is None or warnings else _added_by_others(leakage["mass"])
                sentences.append(sentence + added + warnings)
        return sentences

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """For each attribution curves, tables and images; how sure the models are."""
        panels = []
        for name in result.config["attributions"]:
            panels.append(_curves_panel(result, name))
            panels += [Panel(title, table=one) for title, one in _tables_of_maps(result, name).items()]
            panels.append(_gallery_panel(result, name))
        *_, (title, sure) = cls.tables(result).items()
        return [*panels, Panel(title, [SURE_TEXT], table=sure)]

    @classmethod
    def facts(cls, result: StudyResult) -> dict[str, Any]:
        """How it was measured, as names and values."""
        config = result.config
        data = next(iter(config["data"].values()))
        made = data["options"]
        facts: dict[str, Any] = {
            "Images": f"{made['source']}, {data['num_classes']} classes, {data['train']:,} for training and "
            f"{data['test']:,} for testing; null block: {made['null']}, noise {made['noise']:g}",
            "Explained": f"the predicted classes of the first {config['explained']:,} test images",
            "Attacked": f"the first {config['attacked']:,} test images",
            "Seeds": ", ".join(map(str, config["seeds"])),
            "Ties": f"{config['ties']}, by seed {config['seed']}",
        }
        trained = {title: next(iter(models.values())) for title, models in config["models"].items()}
        return facts | {name: list_settings(one) for name, one in (trained | config["attributions"]).items()}


def _balls_of(options: LeakageOptions) -> list[Ball]:
    """The balls that robust models are trained and all are attacked in: each radius with its norm."""
    norms, radii = list(options.norm), options.radius
    if radii is None:
        radii = [0.1 if norm == "linf" else 1.0 for norm in norms]
    if len(norms) == 1:
        norms *= len(radii)
    if len(norms) != len(radii) or not radii:
        expected = f"one norm, or one for each of the {len(radii)} radii"
        raise argument_error("norm", options.norm, expected, "For example --norm linf l2 --radius 0.1 1.0.")
    if len(set(zip(norms, radii, strict=True))) < len(radii):
        raise argument_error("radius", radii, "different radii for each norm")
    return list(zip(norms, (float(radius) for radius in radii), strict=True))


def _ball_name(norm: str, radius: float) -> str:
    """A ball as people name it: linf 0.1."""
    return f"{norm} {radius:.4g}"


@lru_cache(maxsize=2)
def _make_blocks(options: BlockOptions, root: str | None) -> MaskedDataset:
    """The data set of these options; a process keeps two, as BlockMNIST and BlockMNIST-Top."""
    return block_mnist(options, root)


def _load_blocks(values: Mapping[str, Any], context: Context) -> MaskedDataset:
    """The data set of a step; a RunError if it is not the planned one."""
    data = _make_blocks(BlockOptions(**values["blocks"]), context.data_root)
    check_data(data, values["data"]["checksum"])
    return data


def _load_model(context: Context) -> nn.Module:
    assert context.after is not None
    return load(context.after / RUN, device=context.device).model


def _batch(model: nn.Module, data: MaskedDataset, first: int, count: int) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    return data.test.batch(range(first, min(first + _ROWS, count)), parameter_like(model).dtype, device)


def measure_leakage(
    model: nn.Module,
    data: MaskedDataset,
    moved: MaskedDataset | None,
    method: Attribution,
    *,
    count: int,
    levels: Sequence[float],
    seed: int,
    batch: int,
) -> Arrays:
    """Measure a method's maps of the first `count` test images; arrays (n, ...) by name.

    null/MEASURE: `map_measures` with all null blocks as the region. telling: share of the null blocks' mass
    on the pixels that tell the classes apart where a digit stands (`discriminative_pixels`), tiled over the
    blocks, and telling_area, their share of the null blocks' area. level/signal and level/null: mean
    |attribution| per coordinate in either. pair/MEASURE with `moved`, the same images with the digit moved:
    see `_compare_pairs`. correct (n,), and for the page index (p,), picture/image uint8, picture/signal bool,
    and picture/saliency float16, each map divided by its maximum.
    """
    split = data.test.subset(range(count))
    classes = predict_classes(model, split)

    def explain(shown: Split) -> Tensor:
        return dataset_maps(model, shown, method, target=classes, batch_size=batch, seed=seed).float()

    maps, null = explain(split), ~data.test_mask[:count]
    measures = map_measures(maps, null, levels=levels, seed=seed, indices=range(count))
    arrays = {f"null/{name}": array for name, array in measures.items()}
    arrays["correct"] = (classes == split.labels).numpy()
    tensors = _discriminative(maps, null, data) | _levels(maps, null)
    if moved is not None:
        others = explain(moved.test.subset(range(count)))
        tensors |= _compare_pairs(maps, others, moved, classes)
    arrays |= {name: values.cpu().numpy() for name, values in tensors.items()}
    index = first_of_each_class(split.labels, PICTURES)
    return arrays | {
        "index": np.asarray(index, dtype=np.int64),
        "picture/label": split.labels[index].numpy(),
        "picture/image": split.images[index].numpy(),
        "picture/signal": ~null[index].numpy(),
        "picture/saliency": scaled_saliency(maps[index]),
    }


def _discriminative(maps: Tensor, null: Tensor, data: MaskedDataset) -> dict[str, Tensor]:
    """How much of the null blocks' mass lies where digits of the training images tell their classes."""
    few = range(min(LOOKED_AT, len(data.train)))
    mask = data.train_mask[few.start : few.stop]
    rows, columns = (int(mask[0].any(dim=axis).sum()) for axis in (1, 0))
    # One rectangle of each image is marked, and boolean indexing goes row by row.
    blocks = data.train.images[few.start : few.stop, 0][mask].reshape(len(few), rows, columns)
    places = discriminative_pixels(blocks.float(), data.train.labels[few.start : few.stop], DISCRIMINATIVE)
    tiled = places.repeat(maps.shape[2] // rows, maps.shape[3] // columns).expand(len(maps), -1, -1)
    inside = tiled & null
    area = inside.flatten(1).sum(dim=1).double() / null.flatten(1).sum(dim=1)
    return {"telling": mass_share(maps * null[:, None], inside), "telling_area": area}


def _levels(maps: Tensor, null: Tensor) -> dict[str, Tensor]:
    """Mean |attribution| of a coordinate in the signal block and in the null blocks, float64 (n,)."""
    sizes = maps.double().abs().mean(dim=1)
    return {
        f"level/{name}": (sizes * region).sum(dim=(1, 2)) / region.sum(dim=(1, 2))
        for name, region in (("signal", ~null), ("null", null))
    }


def _compare_pairs(maps: Tensor, others: Tensor, moved: MaskedDataset, classes: Tensor) -> dict[str, Tensor]:
    """Compare each map in the block B that its digit stands in once it is moved, with the map made then.

    Both maps explain the class that was predicted with the digit in its first place. left_at_ink and
    left_in_block: `left_behind`, over the digit's own pixels in B (where it would be, or is), and over all of
    B. same_digit: cosine within B of the map without the digit there and the one with it. same_class and
    other_class: the cosine with the map of another image, the next one whose digit was moved to B as well and
    of which the same class, or another one, was explained; NaN if there is none. What same_digit has more
    than same_class depends on the very digit that is elsewhere. What same_class has more than other_class is
    the class's own: of a model whose map is one for every image of a class, the linear one, all of it.
    """
    count = len(maps)
    block, images = moved.test_mask[:count], moved.test.images[:count, 0].float()
    inside = images * block
    ink = inside >= INK * inside.amax(dim=(1, 2), keepdim=True)
    ink &= block
    blocks = moved.place("block", "test")[:count]

    def with_another(same: bool) -> Tensor:
        partner = _partners(classes, blocks, same=same)
        cosine = cosine_within(maps, others[partner.clamp(min=0)], block)
        return cosine.masked_fill(partner < 0, torch.nan)

    return {
        "pair/left_at_ink": left_behind(maps, others, ink),
        "pair/left_in_block": left_behind(maps, others, block),
        "pair/same_digit": cosine_within(maps, others, block),
        "pair/same_class": with_another(same=True),
        "pair/other_class": with_another(same=False),
    }


def _partners(classes: Tensor, blocks: Tensor, *, same: bool) -> Tensor:
    """For each image the next one, in a circle, with the digit in its block; -1 if there is none.

    same: whether it is one of the same class, or of another.
    """
    count = len(classes)
    partner = torch.full((count,), -1, dtype=torch.int64)
    for step in range(1, count):
        rows = (partner < 0).nonzero()[:, 0]
        if not len(rows):
            break
        other = (rows + step) % count
        fits = ((classes[other] == classes[rows]) == same) & (blocks[other] == blocks[rows])
        partner[rows[fits]] = other[fits]
    return partner


def _measures(runs: Sequence[Arrays]) -> dict[str, Any]:
    """The intervals of one attribution's maps: of the null blocks, of their content, and of pairs."""
    measures: dict[str, Any] = {"null": measures_over_seeds(runs, "null/")}
    # What the steps measured by path, and its name in the results.
    names = {"telling": "telling", "telling_area": "telling_area", "level/signal": "signal_level"}
    names |= {"level/null": "null_level"} | {f"pair/{name}": name for name in PAIRED}
    for name, shown in names.items():
        if name in runs[0]:
            measures[shown] = two_intervals([run[name] for run in runs])
    for name, nearer, farther in APART:
        if f"pair/{nearer}" in runs[0]:
            measures[name] = two_intervals([run[f"pair/{nearer}"] - run[f"pair/{farther}"] for run in runs])
    return measures


def _differences(here: Sequence[Arrays], there: Sequence[Arrays]) -> dict[str, Any]:
    """The two intervals of one data set's null shares minus another's, paired by image and by seed."""

    def minus(name: str) -> list[NDArray[Any]]:
        return [one[name] - other[name] for one, other in zip(here, there, strict=True)]

    levels = here[0]["null/topk"].shape[1]
    return {
        "mass": two_intervals(minus("null/mass")),
        "topk": [two_intervals([part[:, at] for part in minus("null/topk")]) for at in range(levels)],
    }


# From a finished study to its page


def _ball_of(result: StudyResult, title: str, position: str) -> str | None:
    """The ball that a kind of training has, if any."""
    fields = result.config["models"][title][position]
    return _ball_name(fields["norm"], fields["radius"]) if "radius" in fields else None


def _conditions(result: StudyResult, ball: str | None = None) -> list[tuple[str, str]]:
    """(training, position) in the order of the options; of robust trainings those in one ball, or all."""
    known = [(title, at) for title, models in result.results["models"].items() for at in models]
    return [one for one in known if ball is None or _ball_of(result, *one) in (None, ball)]


def _rows(result: StudyResult, attribution: str) -> dict[str, dict[str, Any]]:
    """What was measured of each training on each data set, one attribution's maps among it, by name."""
    rows = {}
    for title, at in _conditions(result):
        model = result.results["models"][title][at]
        others = result.results["leakage"].get(attribution, {}).get(title)
        rows[f"{title}, {TITLES[at]}"] = {**model, **model["maps"][attribution], "others": others}
    return rows


def _first_model(result: StudyResult) -> Mapping[str, Any]:
    """The results of the first training on the first data set."""
    first: Mapping[str, Any] = next(iter(next(iter(result.results["models"].values())).values()))
    return first


def _area(result: StudyResult) -> float:
    """The null block's share of an image."""
    area: float = next(iter(_first_model(result)["maps"].values()))["null"]["area"]["examples"]["value"]
    return area


def _tables_of_maps(result: StudyResult, attribution: str) -> dict[str, Table]:
    """Where the maps of one attribution lie, and how they compare with those of the digit moved."""
    levels, first = result.config["levels"], _first_model(result)
    # Attacked are fewer images than the accuracy beside it is of.
    few = f"first {result.results['attacked']:,} attacked"
    columns = [
        Column("accuracy", "accuracy", "share", None, "On all test images."),
        *(
            Column(f"under_attack/{ball}", f"{few}, {ball}", "share", None, _ATTACKED)
            for ball in first["under_attack"]
        ),
        *(
            Column(f"null/topk/{place}", f"null share, top {level_text(level)}", "share", None, _SHARE)
            for place, level in enumerate(levels)
            if level in SHOWN
        ),
        Column("null/mass", "null mass", "share", None, "The share of the sum of |attribution|."),
        Column(
            "null/pointing", "strongest in null", "share", None, "How often the greatest value lies there."
        ),
        Column("null/auc", "AUC", "number", None, _AUC),
        Column("null/zero", "exact zeros", "share"),
    ]
    rows = _rows(result, attribution)
    tables = {f"In numbers: {attribution}": table_of("training, data", columns, rows, CAPTION)}
    moved = {name: row for name, row in rows.items() if "left_at_ink" in row}
    if moved:
        pairs = table_of("training, data", PAIR_COLUMNS, moved)
        tables[f"The same digit in the other place: {attribution}"] = pairs
    return tables


def _added_by_others(mass: Mapping[str, Any]) -> str:
    """What digits of other instances have to do with it, which one training of each kind cannot show."""
    if mass["seeds"]["n"] < 2:
        return " Whether digits of other instances add to it, several seeds would show."
    if Interval.read(mass).sign > 0:
        return f" Digits of other instances there add {write_cell(mass, 'points')} points to its mass."
    return " That digits of other instances add to its mass is not shown."


def _null_curves(result: StudyResult, attribution: str, ball: str | None = None) -> dict[str, list[Curve]]:
    """By data set the null shares over k; a training has one colour in all of them."""
    titles, curves = list(result.results["models"]), dict[str, list[Curve]]()
    for title, at in _conditions(result, ball):
        topk = result.results["models"][title][at]["maps"][attribution]["null"]["topk"]
        # IG-SUM-NORM lies on adversarial training more often than not.
        dashed = result.config["models"][title][at]["objective"] == "ig-sum-norm"
        curve = make_topk_curve(
            title, result.config["levels"], topk, colour=titles.index(title), dashed=dashed
        )
        curves.setdefault(TITLES[at], []).append(curve)
    return curves


def _curves_panel(result: StudyResult, attribution: str) -> Panel:
    """A chart for each data set."""
    text = "0% marks the digit alone; the share of the area is what a map without knowledge scores."
    charts = _null_curves(result, attribution)
    title = f"The null block's share: {attribution}"
    return topk_panel(title, charts, _area(result), "in the null block", [text])


def _gallery_panel(result: StudyResult, attribution: str) -> Panel:
    """Images of every data set, and the maps of every training that has seen it."""
    arrays, titles = result.arrays, list(result.results["models"])
    levels: Sequence[float] = result.config["levels"]
    level = 0.1 if 0.1 in levels else levels[0]
    positions, rows = list(result.config["data"]), []
    for place in range(len(arrays[f"{positions[0]}/label"])):
        for position in positions:
            maps, captions = [], []
            for number in range(len(titles)):
                key = f"{position}/{attribution}/{number}"
                maps.append(arrays[f"{key}/saliency"][place])
                share = float(arrays[f"{key}/null_share"][place][levels.index(level)])
                right = "" if arrays[f"{key}/correct"][place] else ", misread"
                captions.append(f"{percent(share, 0)} null{right}")
            label, image, signal = (
                arrays[f"{position}/{part}"][place] for part in ("label", "image", "signal")
            )
            title = f"{arrays['classes'][label]}, {TITLES[position]}"
            rows.append(map_row(title, image, maps, captions, signal))
    text = (
        "The digit's block is outlined. Below each map stands the share of its top "
        f"{level_text(level)} of coordinates that lies in the null block. Each map has a "
        "scale of its own; models are those of the first seed."
    )
    return examples_panel(f"Examples: {attribution}", [text], rows, titles)


# Several finished studies in one table


@dataclass(frozen=True)
class LevelsOptions(Checked):
    """Null shares of finished leakage studies at every level, as a Markdown table and a figure.

    Args:
        folders: Folders that `veridical leakage` wrote.
        titles: A name for each; None takes those of the folders.
        attribution: Which explanation; None takes the first one of each study.
        ball: Robust trainings in this ball alone, for example "linf 0.1"; None takes all.
        levels: Levels of the table; None takes all.
        figure: File of the figure (.svg or .png); None draws none.
    """

    folders: list[FilePath] = field(metadata=POSITIONAL)
    titles: list[str] | None = None
    attribution: str | None = None
    ball: str | None = None
    levels: list[Share] | None = None
    figure: FilePath | None = None


def compare_levels(options: LevelsOptions) -> str:
    """Null shares of finished leakage studies at every level, as a Markdown table and a figure.

    examples:
      veridical leakage-levels runs/leakage-mlp runs/leakage-cnn --figure leakage.svg

    A row for each training: accuracy, that under attack in its own ball, null shares and mass.
    In percent, with the wider side of the 95% interval over seeds (over images where there is one seed).
    Several studies have a column of names. Draws the figure, a chart for each study and data set. Raises
    UsageError for studies of different levels, and for a ball, an attribution or levels that a study does
    not have.
    """
    folders = [as_path(folder, "folders") for folder in options.folders]
    names = distinct_titles(options.titles, [folder.name for folder in folders], folders, "folder")
    studies = {name: Leakage.read(folder) for name, folder in zip(names, folders, strict=True)}
    levels, *others = (study.config["levels"] for study in studies.values())
    if any(other != levels for other in others):
        raise argument_error("folders", "studies of different levels", "the same levels in all")
    shown = levels if options.levels is None else options.levels
    if not set(shown) <= set(levels):
        raise argument_error("levels", list(shown), f"some of {', '.join(f'{level:g}' for level in levels)}")
    rows = []
    for name, study in studies.items():
        attribution = _choose_attribution(name, study, options)
        for title, at in _conditions(study, options.ball):
            model, ball = study.results["models"][title][at], _ball_of(study, title, at)
            null = model["maps"][attribution]["null"]
            shares = {level_text(level): null["topk"][levels.index(level)] for level in shown}
            measured = {"accuracy": model["accuracy"], "under PGD": model["under_attack"].get(ball)}
            measured |= {**shares, "mass": null["mass"]}
            cells = {head: _half_interval(two) for head, two in measured.items()}
            rows.append({"network": name, "training": title, "data": TITLES[at], **cells})
    if options.figure is not None:
        path = as_path(options.figure, "figure")
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_levels(studies, options).savefig(path)
    heads = list(rows[0])
    return Table(heads if len(studies) > 1 else heads[1:], rows).to_markdown()


def _choose_attribution(name: str, study: StudyResult, options: LevelsOptions) -> str:
    """The attribution that is shown of a study; a UsageError for one, or a ball, that it does not have."""
    explanations, balls = list(study.config["attributions"]), list(_first_model(study)["under_attack"])
    for what, values in (("ball", balls), ("attribution", explanations)):
        if getattr(options, what) not in (None, *values):
            raise argument_error(what, getattr(options, what), f"one that {name} has: {', '.join(values)}")
    return options.attribution or explanations[0]


def draw_levels(studies: Mapping[str, StudyResult], options: LevelsOptions) -> Figure:
    """A chart for each study and data set: null shares over k, a curve for each training."""
    charts = [
        (f"{name}, {data}", curves)
        for name, study in studies.items()
        for data, curves in _null_curves(
            study, _choose_attribution(name, study, options), options.ball
        ).items()
    ]
    return shares_grid(
        charts,
        columns=max(len(study.config["data"]) for study in studies.values()),
        x_label="k, share of the values",
        y_label="share of them in the null block",
        level_line=(_area(next(iter(studies.values()))), "its share of the area"),
    )


def _half_interval(two: Mapping[str, Mapping[str, Any]] | None) -> str:
    """A share in percent, and the wider side of its interval, which is cut to what a share can be."""
    if two is None:
        return ""
    interval = main_interval(two)
    value, low, high = (interval[end] for end in ("value", "low", "high"))
    if low is None or high is None:
        return f"{100 * value:.1f}"
    # Intervals of counts are not symmetric, and those of few seeds wider than all shares: the wider side that
    # can be stands for both.
    return f"{100 * value:.1f} ±{100 * max(min(high, 1.0) - value, value - max(low, 0.0)):.1f}"
