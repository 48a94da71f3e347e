from __future__ import annotations

from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.catalog import DatasetSpec, list_datasets


class TestSpec:
    def test_parts(self) -> None:
        spec = DatasetSpec.parse("voc2012:/a b/c?split=val&masks=x/y")
        assert (spec.name, spec.target, spec.options) == ("voc2012", "/a b/c", {"split": "val", "masks": "x/y"})
        assert DatasetSpec.parse("data/own") == DatasetSpec("folder", "data/own")
        assert DatasetSpec.parse(r"C:\data?split=val") == DatasetSpec("folder", r"C:\data", {"split": "val"})
        assert DatasetSpec.parse("pkg.mod:make") == DatasetSpec("pkg.mod", "make")
        assert str(spec) == "voc2012:/a b/c?split=val&masks=x/y"
        assert DatasetSpec.parse("camvid:/a?masks=/c++/x%26y&split=").options == {"masks": "/c++/x&y", "split": ""}
        odd = DatasetSpec("voc2012", "/a", {"aug": "/c++/50% & more"})
        assert DatasetSpec.parse(str(odd)) == odd

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("voc2021:/x", "no data set 'voc2021'. Did you mean 'voc2012'"),
            ("voc2012:", "names no folder"),
            ("voc2012:/x?split", "'split' are not options"),
            ("camvid:{}?splt=val", "takes no argument 'splt'. Did you mean 'split'"),
            ("camvid:{}?split=vla", "no split 'vla'. Did you mean 'val'"),
            ("camvid:{}", "expected trainannot or CamVid/trainannot in this folder, but it contains nothing"),
            ("camvid:{}/nowhere", "no such folder"),
            ("pascal_context:{}?classes=many", "classes=many is not valid; expected a value of type int"),
            ("no.such.module:make", "no module 'no.such.module'"),
        ],
    )
    def test_errors_name_the_cause(self, tmp_path: Path, spec: str, message: str) -> None:
        with pytest.raises(AtrousError) as caught:
            open_dataset(spec.format(tmp_path))
        assert message in str(caught.value)

    def test_a_function_of_your_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
        (tmp_path / "my_streets.py").write_text(
            "from atrous.data import open_dataset\n"
            "def make(path: str, count: int = 1):\n"
            "    return open_dataset(path).select(range(count))\n"
            "def pick(path: str, few: bool = True, share: float | None = None):\n"
            "    count = 1 if few else 4\n"
            "    return open_dataset(path).select(range(count if share is None else int(share * count)))\n"
            "def wrong():\n    return 7\n"
        )
        monkeypatch.chdir(tmp_path)
        assert len(open_dataset(f"my_streets:make?path={own}&count=2")) == 2
        assert len(open_dataset(f"my_streets:pick?path={own}&few=false&share=0.5")) == 2
        assert len(open_dataset(f"my_streets:pick?path={own}&few=True")) == 1
        with pytest.raises(AtrousError, match="few=no is not valid; expected a value of type bool"):
            open_dataset(f"my_streets:pick?path={own}&few=no")
        with pytest.raises(AtrousError, match="returned int; expected"):
            open_dataset("my_streets:wrong")
        with pytest.raises(AtrousError, match=r"no function 'mak'\. Did you mean 'make'"):
            open_dataset("my_streets:mak")

    def test_all_are_listed(self) -> None:
        assert list_datasets("coco") == ["coco_panoptic", "coco_stuff", "coco_voc"]
        assert len(list_datasets()) == 11


def test_a_home_folder_that_does_not_exist() -> None:
    with pytest.raises(AtrousError, match="~nobody-of-this-name/data"):
        open_dataset("camvid:~nobody-of-this-name/data")
