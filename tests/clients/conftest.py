"""The API root and the model that every client's test asks."""

import pytest

from clients_target import MODEL, URL


@pytest.fixture(scope="session")
def url() -> str:
    return URL


@pytest.fixture(scope="session")
def model() -> str:
    return MODEL
