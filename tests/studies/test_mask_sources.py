"""Which data sets have regions, wherever masks come from, and studies on class folders with mask images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import veridical
from veridical.data import load
from veridical.data.dataset import MaskedDataset
from veridical.data.masked import load_masked
from veridical.runtime.errors import UsageError
from veridical.studies import audit as audits
from veridical.studies.alignment import Alignment, AlignmentOptions
from veridical.studies.audit import Audit, AuditOptions
from veridical.studies.maps import has_regions, region_record, regions_of
from veridical.studies.study import StudyResult
from veridical.training.subject import load_subject

pytestmark = pytest.mark.usefixtures("quick_parts")

QUIET: dict[str, Any] = {"workers": 1, "progress": False}
FEW: dict[str, Any] = {"examples": 8, "attacked": 2, "steps": 2, "repeats": 1, "progress": False}

CHECKED: dict[str, Any] = {**FEW, "examples": 24, "levels": [0.25], "grid": 2, "gallery": 2, "workers": 1}


@pytest.fixture(scope="session")
def photos(trained: Path) -> Path:
    """The images of patches.npz as files in class folders, and their masks, in `photos` and `photo-masks`."""
    data = load_masked(trained / "patches.npz")
    for part in ("train", "test"):
        split = data.split(part)
        masks = data.mask(part).numpy()
        for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            name = Path(part, f"class {label}", f"{number:03d}")
            for folder, suffix, pixels in (
                ("photos", ".png", image[0].numpy()),
                ("photo-masks", ".bmp", masks[number].astype(np.uint8) * 255),
            ):
                path = trained / folder / name.with_suffix(suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return trained / "photos"


def write_npz(path: Path, classes: int = 3, more: Mapping[str, Any] | None = None) -> Path:
    draws, arrays = np.random.default_rng(0), dict(more or {})
    for part in ("train", "test"):
        arrays[f"x_{part}"] = draws.integers(0, 256, (classes, 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(classes)
    np.savez(path, **arrays)
    return path


def test_every_source_of_regions_is_known(trained: Path, photos: Path, tmp_path: Path) -> None:
    masks = {f"mask_{part}": np.ones((3, 8, 8), dtype=bool) for part in ("train", "test")}
    boxes = {f"box_{part}": np.array([[8, 8, 2, 1, 5, 6]] * 43) for part in ("train", "test")}
    write_npz(tmp_path / "gtsrb.npz", 43, boxes)
    garments: dict[str, Any] = {
        f"x_{part}": np.full((10, 28, 28), 99, np.uint8) for part in ("train", "test")
    }
    np.savez(tmp_path / "fashion-mnist.npz", y_train=np.arange(10), y_test=np.arange(10), **garments)
    known = [
        load(trained / "patches.npz"),
        load(write_npz(tmp_path / "masked.npz", 3, masks)),
        load("gtsrb", tmp_path),
        load(photos, masks=trained / "photo-masks"),
        load_masked(trained / "patches.npz"),
        load("fashion-mnist", tmp_path),
    ]
    kinds = [region_record(data)["kind"] for data in known if has_regions(data)]
    assert kinds == ["mask", "mask", "box", "mask", "mask", "foreground"]
    (tmp_path / "bare").mkdir()
    write_npz(tmp_path / "bare" / "gtsrb.npz", 43)
    unknown = [
        load(trained / "noise.npz"),
        load(photos),
        load("mnist-5k"),
        load("gtsrb", tmp_path / "bare"),
        # A file of signs under another name: its boxes are gtsrb's.
        load(tmp_path / "gtsrb.npz"),
    ]
    assert [has_regions(data) for data in unknown] == [False] * 5


def make_flat(num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))


def test_signs_without_boxes_are_audited_but_for_localisation(tmp_path: Path) -> None:
    torch.save(make_flat(43).state_dict(), tmp_path / "flat.pt")
    boxes = {f"box_{part}": np.array([[8, 8, 2, 1, 5, 6]] * 43) for part in ("train", "test")}
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
        write_npz(tmp_path / name / "gtsrb.npz", 43, boxes if name == "with" else {})
    options = AuditOptions(
        model=f"{__name__}:make_flat",
        weights=str(tmp_path / "flat.pt"),
        data="gtsrb",
        data_root=str(tmp_path / "without"),
        trust_code=True,
        attribution=["input-gradient"],
        out=str(tmp_path / "audit"),
        workers=1,
        **FEW,
    )
    result = Audit(options).run()
    (answer,) = localisation(result, "input-gradient")
    assert answer["verdict"] == "not measured"
    assert result.results["left_out"] == {}
    boxed = Audit(replace(options, data_root=str(tmp_path / "with"), out=str(tmp_path / "boxed")))
    assert boxed.region is not None
    assert boxed.region["kind"] == "box"
    assert boxed.cases_of("input-gradient")[0].values["region"] == boxed.region


def localisation(result: StudyResult, name: str) -> list[dict[str, Any]]:
    answers = result.results["answers"]
    return [one for one in answers if (one["question"], one["attribution"]) == ("localisation", name)]


def test_alignment_on_mask_images_is_that_of_the_file(trained: Path, photos: Path, tmp_path: Path) -> None:
    """The same images and masks, in another order, from pictures."""

    def measure(name: str, **given: Any) -> StudyResult:
        options = AlignmentOptions(
            run=[str(trained / "natural-0")],
            attribution=["input-gradient"],
            examples=None,
            gallery=2,
            out=str(tmp_path / name),
            **{**QUIET, **given},
        )
        return Alignment(options).run()

    file = measure("file", data=str(trained / "patches.npz"))
    folder = measure("folder", data=str(photos), masks=str(trained / "photo-masks"))
    assert folder.config["region"]["words"] == "what the masks mark"
    assert folder.results["area"]["value"] == pytest.approx(file.results["area"]["value"])
    ours, theirs = (
        next(iter(one.results["models"].values()))["maps"]["input-gradient"] for one in (folder, file)
    )
    for measured in ("mass", "excess", "one_map", "auc"):
        here, there = (one[measured]["examples"] for one in (ours, theirs))
        assert here["value"] == pytest.approx(there["value"], rel=1e-4), measured
        assert here["n"] == there["n"] == 60


def test_images_without_a_mask_are_left_out_of_all_measures(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    kept = sorted((trained / "photo-masks" / "test").rglob("*.bmp"))[::2]
    for path in kept:
        copy = tmp_path / "masks" / path.relative_to(trained / "photo-masks")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    options: dict[str, Any] = {"run": [str(trained / "natural-0")], "attribution": ["input-gradient"]}
    options |= {"data": str(photos), "masks": str(tmp_path / "masks"), "gallery": 12, **QUIET}
    with pytest.warns(UserWarning, match="300 of 300 training images and 30 of 60 test images"):
        result = Alignment(AlignmentOptions(examples=None, out=str(tmp_path / "out"), **options)).run()
    maps = next(iter(result.results["models"].values()))["maps"]["input-gradient"]
    for measured in ("mass", "excess", "one_map", "beyond_one_map", "pointing", "auc"):
        assert maps[measured]["examples"]["n"] == 30, measured
    assert result.results["area"]["n"] == 30
    assert result.results["area"]["value"] == pytest.approx(4 / 64)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "no mask" in page
    for path in (tmp_path / "masks").rglob("*.bmp"):
        Image.new("L", (8, 8)).save(path)
    with (
        pytest.warns(UserWarning, match="no mask"),
        pytest.raises(UsageError, match="none of these has a mask"),
    ):
        Alignment(AlignmentOptions(examples=20, out=str(tmp_path / "none"), **options))


@pytest.fixture(scope="module")
def audited(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return veridical.audit(
        trained / "natural-0",
        photos,
        ["gradient-x-input"],
        masks=trained / "photo-masks",
        out=tmp_path_factory.mktemp("photos") / "audit",
        **CHECKED,
    )


def test_an_audit_of_class_folders_and_masks_answers_localisation(
    trained: Path, photos: Path, audited: StudyResult
) -> None:
    assert audited.results["left_out"] == {}
    (answer,) = localisation(audited, "gradient-x-input")
    assert answer["verdict"] == "holds"
    assert f"--masks {trained / 'photo-masks'}" in answer["command"]
    (control,) = localisation(audited, "random")
    assert control["verdict"] == "fails"
    # By hand, from the model and the masks as they were planted.
    data, subject = load_masked(trained / "patches.npz"), load_subject(choose(trained))
    planted = {
        image.numpy().tobytes(): mask for image, mask in zip(data.test.images, data.test_mask, strict=True)
    }
    files = load(photos).test
    shares = []
    for number in range(24):
        inputs, _ = files.batch([number])
        inputs.requires_grad_()
        (gradient,) = torch.autograd.grad(subject.model(inputs).amax(1).sum(), inputs)
        size, mask = (
            (gradient * inputs.detach())[0, 0].abs().double(),
            planted[files.images[number].numpy().tobytes()],
        )
        shares.append(float(size[mask].sum() / size.sum()) - 4 / 64)
    assert answer["value"]["value"] == pytest.approx(float(np.mean(shares)), rel=1e-4)


def choose(trained: Path) -> Any:
    return AuditOptions(run=str(trained / "natural-0"), out="-", device="cpu")


def test_other_masks_are_another_audit(
    trained: Path, photos: Path, audited: StudyResult, tmp_path: Path
) -> None:
    masks, place = tmp_path / "masks", trained / "photo-masks"
    for path in place.rglob("*.bmp"):
        (masks / path.relative_to(place)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - np.asarray(Image.open(path))).save(masks / path.relative_to(place))
    with pytest.raises(UsageError, match="another run"):
        veridical.audit(
            trained / "natural-0",
            photos,
            ["gradient-x-input"],
            masks=masks,
            out=audited.folder,
            **CHECKED,
        )
    with pytest.raises(UsageError, match="masks: expected None"):
        veridical.audit(trained / "natural-0", load(photos), masks=masks, out=tmp_path / "memory")


def test_a_run_is_on_its_own_images_with_masks_too(photos: Path, tmp_path: Path) -> None:
    """Masks change a data set's checksum, not its images."""
    veridical.train(
        data=str(photos), out=str(tmp_path / "run"), model="mlp", epochs=1.0, validation=30, progress=False
    )
    options = AuditOptions(
        run=str(tmp_path / "run"), masks=str(photos.with_name("photo-masks")), out="-", device="cpu"
    )
    subject = load_subject(options)
    assert has_regions(subject.data)
    assert len(subject.split("validation")) == 30


def test_masks_in_memory_are_part_of_what_is_audited(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images with other masks are written to a file of their own."""
    data = load_masked(trained / "patches.npz")
    seen: list[torch.Tensor] = []

    class PreparedError(Exception):
        pass

    def note(self: Audit, *_: Any) -> None:
        seen.append(regions_of(self.data))
        raise PreparedError

    monkeypatch.setattr(audits.Audit, "run", note)
    for mask in (data.test_mask, ~data.test_mask):
        masked = MaskedDataset.of(data, data.train_mask, mask, data.places)
        with pytest.raises(PreparedError):
            veridical.audit(trained / "natural-0", masked, out=tmp_path / "audit", progress=False)
    # A model in memory takes files of other sizes, with their masks.
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval()
    given: dict[str, Any] = {"image_size": 6, "progress": False, "out": tmp_path / "own"}
    with pytest.raises(PreparedError):
        veridical.audit(model, photos, masks=trained / "photo-masks", **given)
    assert seen[2].shape == (60, 6, 6)
    assert seen[0].equal(data.test_mask)
    assert seen[1].equal(~data.test_mask)
