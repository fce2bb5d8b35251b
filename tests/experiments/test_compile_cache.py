"""Where compiled programs are kept."""

import types

import pytest

from rembert_jax.experiments import compile_cache


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """What JAX is told, where it was told `before` already."""

    def told(folder, before=None):
        values = {}
        config = types.SimpleNamespace(jax_compilation_cache_dir=before, update=values.__setitem__)
        monkeypatch.setattr(compile_cache.jax, "config", config)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        compile_cache.keep_compiled(folder)
        return values

    return told


def test_programs_are_in_the_users_cache_folder_in_another_one_or_nowhere(kept, tmp_path):
    assert kept("")["jax_compilation_cache_dir"] == str(tmp_path / "rembert_jax" / "compiled")
    assert kept(str(tmp_path / "mine"), before="/other")["jax_compilation_cache_dir"] == str(tmp_path / "mine")
    assert kept("", before="/other") == {}, "what JAX is told already stays"
    assert kept("off", before="/other") == {"jax_enable_compilation_cache": False}
    assert kept("")["jax_persistent_cache_min_compile_time_secs"] == 0.0, "small programs count too"
