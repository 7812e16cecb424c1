"""Settings and fixtures of all tests."""

import signal
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


def pytest_configure(config):
    config.pluginmanager.register(closing_line)


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
def fast_compile():
    """Turns most of XLA's optimizations off, for tests whose time is nearly all compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def key(request):
    """A PRNG key of the test's own, from its id."""
    return jax.random.key(zlib.crc32(request.node.nodeid.encode()))
