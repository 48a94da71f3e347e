"""Push weights to the Hugging Face hub: a safetensors file with its card, a README made from it, an example picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from shutil import copyfile
from typing import Any

from atrous.analysis.counts import count_parameters
from atrous.errors import AtrousError
from atrous.export.readme import MARK, Contents, write_readme
from atrous.files import temporary_folder, write_text, writing
from atrous.imaging.io import save_image
from atrous.inference import Segmenter
from atrous.marks import read_mark
from atrous.models import SegmentationModel
from atrous.weights import find_weights, load, read_card, save
from atrous.weights.header import has_card
from atrous.weights.hub import DEFAULT_FILE, HubId, endpoint, hub_api, hub_errors, import_hub, is_offline, read_token

README = "README.md"
PICTURE = "example.jpg"

Weights = SegmentationModel | str | os.PathLike[str]


@dataclass(frozen=True)
class PushReport:
    """Pushed weights."""

    id: str
    """The id of this version: `hf://user/name@COMMIT`."""
    url: str
    """The page of the repository."""
    private: bool
    kept_readme: bool
    """Whether the repository has a README written by hand, which was kept."""
    license: str


def push_to_hub(
    weights: Weights,
    repo: str,
    *,
    private: bool = False,
    image: str | os.PathLike[str] | None = "street",
    message: str = "",
) -> PushReport:
    """Push weights to a repository of the Hugging Face hub, in one commit; the repository is created if necessary.

    `weights` is a network with a card, an id or a file; `repo` is `user/name`. The README is written from the card; one
    that was written by hand is kept. Its example picture is the segmentation of `image`, a path: by default a rendered
    street that comes with the package, or none for None. The token, with write access, is read from the environment
    variable `HF_TOKEN` and from nowhere else.

    Raises: `AtrousError` for weights without a card, an invalid name, without a token or a connection, for a token
    without write access, and if a `private` repository is wanted and the existing one is public.
    """
    wanted = _parse_repo(repo)
    if is_offline():
        raise AtrousError("Nothing can be pushed offline: unset ATROUS_OFFLINE and HF_HUB_OFFLINE.")
    if read_token() is None:
        raise AtrousError(
            f"Pushing needs a token with write access: create one on {endpoint()}/settings/tokens, and set the "
            "environment variable HF_TOKEN."
        )
    with temporary_folder() as folder:
        local = prepare_push(weights, wanted, folder, image=image)
        with hub_errors(f"hf://{wanted}"):
            api = hub_api()
            api.create_repo(wanted, private=private or None, exist_ok=True)
            info = api.model_info(wanted)
            if private and not info.private:
                raise AtrousError(
                    f"hf://{wanted} exists and is public: make it private on its page, or push elsewhere."
                )
            kept = _has_own_readme(api, info, folder / "present")
            add = import_hub().CommitOperationAdd
            operations = [add(name, str(path)) for name, path in local.items() if not kept or name != README]
            commit = api.create_commit(wanted, operations, commit_message=message or "Push weights with atrous")
        card = read_card(local[DEFAULT_FILE])
    return PushReport(str(HubId(wanted, commit.oid)), f"{endpoint()}/{wanted}", bool(info.private), kept, card.license)


def prepare_push(
    weights: Weights, repo: str, folder: Path, *, image: str | os.PathLike[str] | None = "street"
) -> dict[str, Path]:
    """Write the files of a repository to a folder, without a connection; returns their paths by name.

    Raises: `AtrousError` as `push_to_hub`.
    """
    repo = _parse_repo(repo)
    model, path = _load(weights, folder)
    local = {DEFAULT_FILE: path, README: folder / README}
    caption = ""
    if image is not None:
        source = example_image() if image == "street" else Path(image)
        result = Segmenter.load(path, engine="torch", device="cpu")(source)
        local[PICTURE] = folder / PICTURE
        save_image(result.shrink(1280).overlay(), local[PICTURE])
        caption = "A rendered street, segmented" if image == "street" else "An image, segmented"
    contents = Contents(
        repo, DEFAULT_FILE, path.stat().st_size, count_parameters(model), PICTURE if caption else "", caption
    )
    write_text(local[README], write_readme(read_card(path), contents))
    return local


def example_image() -> Path:
    """Locate the example image, a street rendered by a script of this project."""
    packaged = Path(str(files("atrous"))) / "examples" / "street.jpg"
    return packaged if packaged.is_file() else Path(__file__).parents[3] / "examples" / "street.jpg"


def _load(weights: Weights, folder: Path) -> tuple[SegmentationModel, Path]:
    """Load a network, and locate or write the file with its card."""
    path = folder / DEFAULT_FILE
    if isinstance(weights, SegmentationModel):
        return weights, save(weights, path)
    source = find_weights(weights)
    model = load(source)
    if not has_card(source):  # a file of another project
        return model, save(model, path)
    if source.resolve() != path.resolve():
        with writing(path) as temporary:
            copyfile(source, temporary)
    return model, path


def _parse_repo(repo: str) -> str:
    wanted = HubId.parse(repo if repo.startswith("hf:") else f"hf://{repo}")
    if wanted.file or wanted.revision != "main":
        raise AtrousError(f"{repo}: expected user/name; weights are pushed to the main branch, as {DEFAULT_FILE}.")
    return wanted.repo


def _has_own_readme(api: Any, info: Any, folder: Path) -> bool:
    """Tell whether the repository has a README that was not written from a card."""
    if README not in [entry.rfilename for entry in info.siblings or ()]:
        return False
    mark = read_mark(Path(api.hf_hub_download(info.id, README, local_dir=folder)))
    return mark is None or mark.command != MARK.command
