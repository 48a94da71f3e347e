"""What the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.kill.commands import COMMANDS, Site, make_site
from tests.kill.trial import Trial


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The inputs, and the networks converted by a command."""
    site = make_site(tmp_path_factory.mktemp("site"))
    Trial("warm-up", COMMANDS["predict, first use"], site, site.folder).undisturbed("warm-up")
    (site.folder / "warm-up" / "cache" / "engines").rename(site.engines)
    return site
