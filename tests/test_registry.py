from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import get_args

import pytest

import atrous
from atrous import AtrousError, create_model, list_models
from atrous.backbones import BACKBONES
from atrous.models import MODELS
from atrous.registry import Paper, Registry, matching

PAPER = Paper("A Title", "One, Two, Three", 2017, "1701.00001")


class Base:
    def __init__(self, *, size: int = 1) -> None:
        self.size = size


class Thing(Base):
    def __init__(self, *, color: str = "red", **options) -> None:
        super().__init__(**options)
        self.color = color


class Box:
    def __init__(self, depth: int, *, label: str) -> None:
        self.depth = depth
        self.label = label


@pytest.fixture
def registry() -> Registry[Thing]:
    registry: Registry[Thing] = Registry("thing")

    @registry.register("thing.red", PAPER, options_of=(Thing, Base))
    @registry.register("thing.blue", PAPER, options_of=(Thing, Base), color="blue")
    def thing(*, speed: int = 3, weights: Sequence[float] | None = None, **options) -> Thing:
        return Thing(**options)

    return registry


def test_presets_and_arguments_handed_on(registry: Registry[Thing]) -> None:
    assert registry.create("thing.red").color == "red"
    blue = registry.create("thing.blue", size=5)
    assert (blue.color, blue.size) == ("blue", 5)
    assert registry.create("thing.blue", color="green").color == "green"
    assert set(registry.entry("thing.blue").arguments()) == {"speed", "weights", "color", "size"}
    assert registry.entry("thing.blue").arguments()["color"].default == "blue"


def test_unknown_names_and_arguments_get_the_nearest(registry: Registry[Thing]) -> None:
    with pytest.raises(AtrousError, match=r"no thing 'thing.rad'\. Did you mean 'thing.red'"):
        registry.create("thing.rad")
    with pytest.raises(AtrousError, match=r"no argument 'colour'\. Did you mean 'color'"):
        registry.create("thing.red", colour="x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "large"}, "thing.red takes size as int, not 'large'"),
        ({"speed": 1.5}, "takes speed as int, not 1.5"),
        ({"color": 3}, "takes color as str, not 3"),
        ({"weights": 1.0}, r"takes weights as Sequence\[float\] \| None, not 1.0"),
        ({"weights": ("a",)}, "takes weights as"),
    ],
)
def test_values_of_another_type_are_named(registry: Registry[Thing], arguments: dict, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        registry.create("thing.red", **arguments)


def words(annotation: object) -> list[str]:
    """The words that an annotation lists, in a `Literal` of its own or of a union."""
    members = get_args(annotation)
    return [annotation] if isinstance(annotation, str) else [word for member in members for word in words(member)]


@pytest.mark.parametrize(
    ("registry", "name", "key"),
    [
        pytest.param(registry, name, key, id=f"{name}-{key}")
        for registry in (MODELS, BACKBONES)
        for name in dict.fromkeys((*registry.names(), *(name.partition(".")[0] for name in registry.names())))
        if name in registry
        for key, argument in registry.entry(name).arguments().items()
        if words(argument.type)
    ],
)
def test_arguments_that_take_one_of_several_words_refuse_others(registry: Registry, name: str, key: str) -> None:
    allowed = words(registry.entry(name).arguments()[key].type)
    for value in ("no such value", 1):
        with pytest.raises(AtrousError) as error:
            registry.create(name, **{key: value})
        assert str(error.value).startswith(f"{name} takes {key} as ")
        assert f"not {value!r}" in str(error.value)
        assert all(repr(word) in str(error.value) for word in allowed)


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        ("resnet50", {"padding": "before_expansion"}, "'symmetric' | 'tensorflow', not"),
        ("efficientnet_lite0", {"padding": "same"}, "'symmetric' | 'tensorflow', not"),
        ("mobilenet_v2", {"maps_from": "depth_wise"}, "Did you mean 'depthwise'?"),
    ],
)
def test_misspelled_geometry_is_not_the_default(backbone: str, arguments: dict, message: str) -> None:
    with pytest.raises(AtrousError, match=re.escape(message)):
        create_model("deeplab_v3", backbone=backbone, width=0.125, backbone_options=arguments)


def test_a_word_beside_other_types() -> None:
    with pytest.raises(
        AtrousError, match=r"refine as bool \| 'separable', not 'seperable'\. Did you mean 'separable'\?"
    ):
        create_model("deeplab_v3.resnet50", refine="seperable")
    with pytest.raises(AtrousError, match=r"context as 'basic' \| 'large' \| None, not 'huge'\.$"):
        create_model("dilation8.vgg16", context="huge")


def test_values_of_the_annotated_types_pass(registry: Registry[Thing]) -> None:
    registry.create("thing.red", speed=1, weights=[1, 0.5], color="green")
    registry.create("thing.red", weights=None)


def test_classes_register_as_functions_do_and_required_arguments_are_named() -> None:
    registry: Registry[Box] = Registry("box")
    registry.register("box.flat", PAPER, depth=1)(Box)
    assert set(registry.entry("box.flat").arguments()) == {"label"}
    assert registry.create("box.flat", label="a").depth == 1
    with pytest.raises(AtrousError, match="needs the argument label"):
        registry.create("box.flat")


def test_a_type_error_inside_a_function_is_not_reported_as_the_users(registry: Registry[Thing]) -> None:
    @registry.register("thing.broken", PAPER)
    def broken(*, size: int = 1) -> Thing:
        return len(size)  # a mistake of ours

    with pytest.raises(TypeError, match="has no len"):
        registry.create("thing.broken", size=2)


def test_a_name_is_taken_once(registry: Registry[Thing]) -> None:
    with pytest.raises(AtrousError, match="registered twice"):
        registry.register("thing.red", PAPER)(lambda: Thing())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*", ["a.x", "a.y", "b.x"]), ("a", ["a.x", "a.y"]), ("*.x", ["a.x", "b.x"]), ("?.y", ["a.y"]), ("c", [])],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert matching(pattern, {"b.x", "a.y", "a.x"}) == expected


def test_papers_are_cited_shortly() -> None:
    assert PAPER.short == "One et al., arXiv 1701.00001"
    assert Paper("T", "Yu, Koltun", 2016).short == "Yu and Koltun"


def test_models_are_created_by_name() -> None:
    assert "deeplab_v3_plus.resnet101" in list_models("deeplab_v3_plus.*")
    with pytest.raises(AtrousError, match=r"Did you mean 'deeplab_v3_plus.resnet101'.*List them with `atrous models`"):
        create_model("deeplab_v3plus.resnet101")
    with pytest.raises(ValueError, match="Did you mean 'output_stride'"):
        create_model("deeplab_v3.resnet50", output_strid=8)


def test_importing_atrous_imports_nothing_heavy() -> None:
    code = (
        "import sys, atrous, atrous.cli.main; print(*{'torch', 'numpy', 'cv2', 'numba', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_public_names_resolve_and_others_do_not() -> None:
    assert all(getattr(atrous, name) is not None for name in dir(atrous))
    with pytest.raises(AttributeError, match="no attribute 'segmenter'"):
        _ = atrous.segmenter


def test_an_unlisted_name_can_be_used_and_is_not_listed() -> None:
    registry: Registry[dict] = Registry("thing")

    @registry.register("open", None, listed=False)
    def build(*, part: str) -> dict:
        return {"part": part}

    registry.register("closed", None)(dict)
    assert registry.names() == ["closed"]
    assert "open" in registry
    assert registry.create("open", part="a") == {"part": "a"}
    with pytest.raises(AtrousError, match="open needs the argument part"):
        registry.create("open")
    with pytest.raises(AtrousError, match=r"There is no thing 'opn'\. Did you mean 'open'"):
        registry.create("opn")


def test_a_prefix_takes_every_name_that_begins_with_it() -> None:
    registry: Registry[tuple] = Registry("thing")

    @registry.register_prefix("from:")
    def build(name: str, *, size: int = 1) -> tuple:
        return name, size

    assert "from:anywhere" in registry
    assert "for:nobody" not in registry
    assert registry.names() == []
    assert registry.create("from:anywhere", size=3) == ("anywhere", 3)
    with pytest.raises(AtrousError, match=r"from:anywhere takes no argument 'siz'\. Did you mean 'size'"):
        registry.create("from:anywhere", siz=3)
