from __future__ import annotations

import json

import pytest

from atrous.card import Card, Measurement, Preprocessing
from atrous.errors import AtrousError

CARD = Card(
    model="segnet.basic",
    classes=("sky", "road"),
    colors=((128, 128, 128), (128, 64, 128)),
    preprocessing=Preprocessing(resize="pad", size=(65, 65)),
    license="Apache-2.0",
    source="trained by atrous",
    trained_on="camvid train, 367 images",
    measured=(Measurement(name="mIoU", value=77.13, data="camvid val"),),
)
AS_WRITTEN_BY_VERSION_0_1 = (
    '{"version":1,"model":"segnet.basic","arguments":{},"classes":["sky","road"],"colours":[[128,128,128],'
    '[128,64,128]],"preprocessing":{"resize":"pad","size":[65,65],"grid":null,"mean":[123.675,116.28,103.53],'
    '"std":[58.395,57.12,57.375],"channel_order":"RGB"},"align_corners":false,"ignore_index":255,'
    '"licence":"Apache-2.0","source":"trained by atrous","trained_on":"camvid train, 367 images",'
    '"measured":[{"name":"mIoU","value":77.13,"data":"camvid val","command":"","published":false}]}'
)


def test_a_card_survives_json() -> None:
    assert Card.read(CARD.model_dump_json(), "a.safetensors") == CARD


def test_a_card_written_by_version_0_1_is_read() -> None:
    assert Card.read(AS_WRITTEN_BY_VERSION_0_1, "a.safetensors") == CARD


def test_arguments_compare_equal_after_storing_them() -> None:
    card = CARD.model_copy(update={"arguments": {}}).model_dump() | {"arguments": {"pooling_crop": (65, 65)}}
    assert Card.model_validate(card).arguments == {"pooling_crop": [65, 65]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licens": "MIT"}, r"a.safetensors: .*no key 'licens'. Did you mean 'license'"),
        ({"classes": ["sky"]}, "1 classes but 2 colors"),
        ({"colors": [[0, 0, 256], [0, 0, 0]]}, r"the color \(0, 0, 256\) is not in 0\.\.255"),
        ({"preprocessing": {"resize": "keep", "size": [65, 65]}}, "preprocessing: resize 'keep' takes no size"),
        ({"preprocessing": {"resize": "squeeze", "size": [65, 65], "grid": 8}}, "takes no grid"),
        ({"preprocessing": {"resize": "squeeze", "size": [0, 65]}}, "is empty"),
        ({"preprocessing": {"std": [1, 0, 1]}}, "must be positive"),
        ({"preprocessing": {"mean": [1, float("inf"), 1]}}, "must be finite"),
        ({"preprocessing": {"std": [1, float("nan"), 1]}}, "must be finite"),
        ({"preprocessing": {"means": [1, 0, 1]}}, "Did you mean 'mean'"),
    ],
)
def test_an_invalid_card_names_the_file_and_the_entry(change: dict[str, object], message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        Card.read(json.dumps(json.loads(CARD.model_dump_json()) | change), "a.safetensors")


@pytest.mark.parametrize("model", [Card, Preprocessing, Measurement])
def test_every_field_has_a_description(model: type[Card]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []
