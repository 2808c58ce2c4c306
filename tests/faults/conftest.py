"""What studies that are disturbed share: one process that has done the slow imports, and one new database of MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import studies


@pytest.fixture(scope="session")
def warm() -> Iterator[studies.Warm]:
    """Runs studies as processes of their own; in a mount namespace where that is allowed."""
    process = studies.Warm(studies.namespace() or ())
    yield process
    process.close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    studies.make_database(path)
    return path
