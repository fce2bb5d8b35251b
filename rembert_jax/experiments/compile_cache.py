"""Compiled programs kept on disk, so that a resumed run, or one like it, starts at once."""

from __future__ import annotations

import os
import pathlib

import jax

OFF = "off"


def keep_compiled(folder: str = "") -> None:
    """Sets the folder for this process; all its stages and runs share it.

    Not the folder of a run, which people pass on: whoever could change a program there would have it run.

    Args:
      folder: where programs are kept; `OFF` keeps none. Empty leaves what JAX is told already (JAX_COMPILATION_CACHE_DIR),
        or takes the user's cache folder.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not folder and jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rembert_jax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder or cache).expanduser().absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
