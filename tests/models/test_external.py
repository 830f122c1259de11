"""Models of other libraries by name: logits of images in [0, 1] are those that the library itself gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.models.external import ModelSource, build_examined, preprocessing_of
from veridical.runtime.errors import RunError, UsageError

SHAPE = (3, 32, 32)


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def build(spec: str, trust_code: bool = True, shape: tuple[int, int, int] = SHAPE, **given: Any) -> nn.Module:
    source = ModelSource(spec, **given)
    return build_examined(source, shape=shape, num_classes=5, trust_code=trust_code).eval()


def standardised(inputs: Tensor, mean: Any, std: Any) -> Tensor:
    return (inputs - torch.tensor(mean).reshape(-1, 1, 1)) / torch.tensor(std).reshape(-1, 1, 1)


def test_torchvision_standardises_as_its_weights_record() -> None:
    from torchvision import models

    torch.manual_seed(0)
    model: Any = build("torchvision:resnet18")
    record = preprocessing_of(ModelSource("torchvision:resnet18"))
    transforms: Any = models.ResNet18_Weights.DEFAULT.transforms()
    assert (list(record.mean), list(record.std)) == (transforms.mean, transforms.std)
    assert (record.size, record.resize) == ((224, 224), 256)
    expected = model.model(standardised(images(), transforms.mean, transforms.std))
    torch.testing.assert_close(model(images()), expected)
    # Both heads of these are for training alone.
    assert build("torchvision:googlenet", shape=(3, 64, 64))(images(side=64)).shape == (2, 5)


def test_timm_standardises_as_its_data_config_and_takes_the_images_size() -> None:
    timm = pytest.importorskip("timm")
    record = preprocessing_of(ModelSource("timm:vit_tiny_patch16_224"))
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg("vit_tiny_patch16_224").to_dict()
    )
    assert record.mean == tuple(config["mean"])
    assert record.size == tuple(config["input_size"][1:])
    assert record.resize == int(224 / config["crop_pct"])
    model: Any = build("timm:vit_tiny_patch16_224")
    expected = model.model(standardised(images(), config["mean"], config["std"]))
    torch.testing.assert_close(model(images()), expected)
    own = build("timm:resnet10t", mean=[0.5] * 3, std=[0.25] * 3)
    assert own(images()).shape == (2, 5)


def test_a_folder_of_transformers_is_read_with_its_processor(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    )
    processor.save_pretrained(tmp_path)
    source = ModelSource(f"hf:{tmp_path}")
    record = preprocessing_of(source)
    assert (record.mean, record.std, record.size) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), (32, 32))
    model = build(source.spec, trust_code=False)
    expected = theirs(pixel_values=standardised(images(), record.mean, record.std)).logits
    torch.testing.assert_close(model(images()), expected)
    assert str(tmp_path) not in str(source.describe())
    with pytest.raises(UsageError, match=r"save_pretrained"):
        build(f"hf:{tmp_path / 'none'}")


def test_an_exported_program_gives_the_same_and_stays_as_it_was_exported(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5), nn.Dropout(0.5)).eval()
    batch = torch.export.Dim("n")
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (images(),), dynamic_shapes=({0: batch},)), path)
    model = build(f"export:{path}")
    torch.testing.assert_close(model(images(3)), net(images(3)))
    model.train()
    torch.testing.assert_close(model(images(3)), net(images(3)))
    torch.export.save(torch.export.export(net, (images(),)), path)
    with pytest.raises(UsageError, match="any number of images"):
        build(f"export:{path}")(images(3))
    with pytest.raises(UsageError, match="trust"):
        build(f"export:{path}", trust_code=False)
    path.write_bytes(b"rubbish")
    with pytest.raises(RunError, match=r"no archive of torch\.export"):
        build(f"export:{path}")


class _Outputs(nn.Module):
    """Returns its logits as one entry of another thing."""

    def __init__(self, kind: str = "tuple", classes: int = 5) -> None:
        super().__init__()
        self.head, self.kind = nn.Linear(3, classes), kind

    def forward(self, inputs: Tensor) -> Any:
        logits = self.head(inputs.mean(dim=(2, 3)))
        return {
            "tuple": (inputs, logits),
            "dict": {"features": inputs, "scores": logits},
            "logits": {"features": inputs, "logits": logits},
            "squeezed": logits[:, 0],
            "tensor": logits,
        }[self.kind]


@pytest.mark.parametrize(("kind", "output"), [("tuple", "1"), ("dict", "scores"), ("logits", None)])
def test_the_entry_that_holds_the_logits_is_taken(kind: str, output: str | None) -> None:
    model: Any = build(f"{__name__}:_Outputs", options={"kind": kind}, output=output)
    logits = model(images()) if output else model(images())["logits"]
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("kind", "output", "message"),
    [("tuple", "7", "of 0, 1"), ("dict", "logits", "features, scores"), ("tensor", "0", "one tensor")],
)
def test_an_entry_that_is_not_there_is_named_beside_those_that_are(
    kind: str, output: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(f"{__name__}:_Outputs", options={"kind": kind}, output=output)(images())


@pytest.mark.parametrize("kind", ["tensor", "squeezed"])
def test_one_logit_is_two_classes_of_which_each_has_a_gradient(kind: str) -> None:
    model: Any = build(f"{__name__}:_Outputs", options={"kind": kind, "classes": 1}, one_logit=True)
    inputs = images().requires_grad_(True)
    logits, one = model(inputs), model.model(inputs).reshape(-1)
    torch.testing.assert_close(logits.softmax(1)[:, 1], one.sigmoid())
    for target in (0, 1):
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), inputs, retain_graph=True)
        assert bool((gradient != 0).any())
    with pytest.raises(UsageError, match="one logit"):
        build(f"{__name__}:_Outputs", options={"kind": "tensor"}, one_logit=True)(images())


WRONG: Mapping[str, tuple[dict[str, Any], str]] = {
    "torchvision:resnet8": ({}, "Did you mean torchvision:resnet"),
    "torchvision:resnet18": ({"options": {"widths": 3}}, "options that torchvision:resnet18 takes"),
    "export:none.pt2": ({}, "No such file"),
    "nowhere:model": ({}, "cannot be imported"),
}


@pytest.mark.parametrize("spec", WRONG)
def test_what_cannot_be_built_says_what_there_is(spec: str) -> None:
    given, message = WRONG[spec]
    with pytest.raises(UsageError, match=message):
        build(spec, **given)


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"veridical\[timm\]"):
        build("timm:resnet18")
