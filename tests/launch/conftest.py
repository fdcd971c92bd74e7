"""The job that all launchers start."""

from pathlib import Path

import pytest
from launchers import Launched, make_launched


@pytest.fixture(scope="session")
def launched(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    return make_launched(tmp_path_factory.mktemp("launched"), corpus)
