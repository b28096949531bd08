"""Films that tests write into a folder of their own."""

from __future__ import annotations

import pytest

from mirnet_edge.testing.films import write_film


@pytest.fixture
def make_film(tmp_path):
    def make(film, **options):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        return write_film(folder / film.name, film, **options)

    return make
