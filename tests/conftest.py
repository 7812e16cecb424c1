"""Settings and fixtures of all tests."""

import os
import shutil
import signal
import tempfile
import zlib

import closing_line
import hypothesis
import jax
import pytest

# Same examples every time, no time limit (the first example compiles), nothing on disk.
hypothesis.settings.register_profile(
    "tsam_jax", derandomize=True, deadline=None, database=None, max_examples=50
)
hypothesis.settings.load_profile("tsam_jax")


CACHE = "JAX_COMPILATION_CACHE_DIR"
# Compiling is most of the tests' time: do it fast, and once for all processes.
FAST = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1",
}
if jax.__version_info__ < (0, 11):  # half of the time; later versions have no such flag
    FAST["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    config.pluginmanager.register(closing_line)
    if not hasattr(config, "workerinput"):  # xdist's workers, and programs of tests, inherit it
        os.environ |= FAST
        if CACHE not in os.environ:
            os.environ[CACHE] = tempfile.mkdtemp(prefix="tsam_jax-")
            config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(CACHE), ignore_errors=True))
    jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="session")
def default_interrupts():
    """A shell's background job ignores SIGINT, and so would the tests of Ctrl-C in one."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees compiled programs after each module."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Makes the test run in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized():
    """Turns XLA's optimizations on, for tests that run for long or are about its programs."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def key(request):
    """A PRNG key of the test's own, from its id."""
    return jax.random.key(zlib.crc32(request.node.nodeid.encode()))
