"""Eight virtual CPU devices, strict broadcasting, run-time checks of array shapes, a tiny model to share, and the rules:

no test takes longer than `LONGEST` unless it is marked `long` or `slow`; with NO_SKIPS=1 only those on real data are skipped.
"""

import atexit
import os
import pathlib
import shutil
import tempfile
import zlib
from importlib import metadata

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if metadata.version("jaxlib").startswith("0.10."):
    # Compiling takes longer than running, and the older code generators, which newer versions lack, are faster at it: by a
    # third in tests/interop/test_parity.py. Child processes get the variable too.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")
import filelock
import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

# All of this holds only if nothing has asked JAX for a device yet, hence here and not in a fixture.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
if (
    "JAX_COMPILATION_CACHE_DIR" not in os.environ
):  # Shared by the workers of this run, and by the processes that they start.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rembert_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_disable_most_optimizations", True)  # Halves compilation, which is most of the suite's time.

# Modules named here are checked against their shape annotations whenever a test calls them.
jaxtyping.install_import_hook(["rembert_jax.modeling", "rembert_jax.losses", "rembert_jax.ops"], "beartype.beartype")

from rembert_jax.config import RemBertConfig  # noqa: E402

LONGEST = 25.0
"""Seconds that a test may take, of the clock or of the processor, whichever is less: other work must not make it fail. They are
those of a slow machine with nothing compiled yet."""
REAL_DATA = pathlib.Path(__file__).resolve().parent.parent.parent / "shared" / "data"
processor_seconds = pytest.StashKey[float]()


def pytest_collection_modifyitems(items):
    """Skips tests on real data where there is none; starts with the long ones, lest one worker ends with them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        if item.get_closest_marker("real_data") and not (REAL_DATA / "MANIFEST.tsv").is_file():
            item.add_marker(pytest.mark.skip(reason="no ../shared/data"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Notes how long the processor works on a test, child processes included."""
    before = os.times()
    try:
        return (yield)
    finally:
        item.stash[processor_seconds] = sum(os.times()[:4]) - sum(before[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turns into failures what the rules of this file forbid."""
    report = yield
    seconds = min(call.duration, item.stash.get(processor_seconds, 0.0))
    may_be_long = item.get_closest_marker("long") or item.get_closest_marker("slow")
    if report.when == "call" and report.passed and seconds > LONGEST and not may_be_long:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} took {seconds:.0f} s; make it shorter, or mark it as long or slow"
    return _refuse_skip(report, item.get_closest_marker("real_data") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Likewise for whole files that are skipped."""
    return _refuse_skip((yield), False)


def _refuse_skip(report, real_data):
    if report.skipped and os.environ.get("NO_SKIPS") and not real_data and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, though NO_SKIPS is set: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter):
    """Says whether the tests on real data ran."""
    ran, skipped = (
        sum(
            "real_data" in getattr(report, "keywords", ())
            for name in names
            for report in terminalreporter.stats.get(name, [])
        )
        for names in (("passed", "failed"), ("skipped",))
    )
    if ran or skipped:
        terminalreporter.write_line(f"real data: {ran} tests ran on ../shared/data, {skipped} were skipped without it")


@pytest.fixture(scope="session")
def tiny_config() -> RemBertConfig:
    """Every width differs from every other, so that a mistaken axis shows; all divide by 4, for meshes."""
    return RemBertConfig(
        vocab_size=48,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        input_embedding_size=8,
        output_embedding_size=24,
        intermediate_size=32,
        max_position_embeddings=12,
        bos_token_id=1,
        eos_token_id=2,
    )


@pytest.fixture
def tiny_batch(tiny_config):
    """Eight packed rows of ten tokens as the data pipeline makes them: two documents, padding, unused mask slots."""
    rng = np.random.default_rng(0)
    rows, slots = 8, 3
    return {
        "input_ids": rng.integers(3, tiny_config.vocab_size, (rows, 10)).astype(np.int32),
        "segment_ids": np.tile(np.array([1, 1, 1, 1, 2, 2, 2, 2, 0, 0], np.int32), (rows, 1)),
        "position_ids": np.tile(np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 0], np.int32), (rows, 1)),
        "masked_positions": np.stack([rng.choice(8, slots, replace=False) for _ in range(rows)]).astype(np.int32),
        "masked_labels": rng.integers(3, tiny_config.vocab_size, (rows, slots)).astype(np.int32),
        "masked_weights": np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]] * 2, np.float32),
    }


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """From a name and a function that fills a folder to that folder, filled once for all workers of this run."""

    def make(name, fill):
        root = tmp_path_factory.getbasetemp()
        root = root if worker_id == "master" else root.parent
        folder, done = root / name, root / f"{name}.done"
        with filelock.FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def random_params():
    """From a module and the shapes of its arguments to parameters that are neither 0 nor 1, without compiling `init`.

    Biases and layer norms differ from their initial values, so that leaving one out of a computation shows.
    """

    def fill(path, leaf):
        seed = zlib.crc32(jax.tree_util.keystr(path).encode())
        values = 0.3 * np.random.default_rng(seed).standard_normal(leaf.shape)
        return jnp.asarray(values + (path[-1].key == "scale"), jnp.float32)

    def make(module, *shapes):
        boxed = jax.eval_shape(module.init, jax.random.key(0), *shapes)["params"]
        return jax.tree_util.tree_map_with_path(fill, nn.unbox(boxed))

    return make
