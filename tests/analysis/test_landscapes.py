"""Slices of a loss surface, and where a trajectory lies over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsam_jax.analysis import (
    Plane,
    filter_normalised,
    loss_between,
    loss_on_line,
    loss_on_plane,
    plane_of_trajectory,
    plane_through,
    project,
    random_direction,
    top_eigenpairs,
)

PARAMS = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "b": jnp.array([1.0, -1.0])}
OTHER = jax.tree.map(lambda x: jnp.cos(3 * x), PARAMS)


def loss(p):
    return jnp.sum(p["w"] ** 2) + jnp.sum(p["b"]) ** 3


def test_a_line_is_the_loss_at_its_points():
    positions = jnp.array([-1.0, 0.0, 0.5])
    losses = loss_on_line(loss, PARAMS, OTHER, positions)
    expected = [
        loss(jax.tree.map(lambda p, d, a=a: p + a * d, PARAMS, OTHER)) for a in (-1.0, 0.0, 0.5)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_between_two_solutions_the_ends_are_the_solutions():
    losses = loss_between(loss, PARAMS, OTHER, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(losses, [loss(PARAMS), loss(OTHER)], rtol=1e-5)


def test_rows_of_a_plane_are_y_and_columns_are_x():
    plane = Plane(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    xs, ys = jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 10.0])
    losses = jax.jit(lambda: loss_on_plane(lambda p: p[0] + 3 * p[1], plane, xs, ys))()
    np.testing.assert_allclose(losses, 7.0 + xs[None, :] + 3 * ys[:, None])


def test_along_the_top_eigenvector_the_curvature_is_the_top_eigenvalue():
    scales = jnp.array([1.0, 5.0, 2.0])
    bowl = lambda x: 0.5 * jnp.sum(scales * x**2)  # noqa: E731
    top = top_eigenpairs(bowl, jnp.zeros(3), jax.random.key(0))
    losses = loss_on_line(bowl, jnp.zeros(3), top.vectors[0], jnp.array([-0.1, 0.0, 0.1]))
    curvature = (losses[0] - 2 * losses[1] + losses[2]) / 0.01
    np.testing.assert_allclose(curvature, 5.0, rtol=1e-3)


@pytest.mark.parametrize("axis", [-1, 0])
def test_each_filter_gets_the_norm_of_its_weights(axis):
    direction = filter_normalised(
        random_direction(jax.random.key(0), PARAMS), PARAMS, filter_axis=axis
    )
    others = 0 if axis == -1 else 1
    np.testing.assert_allclose(
        np.linalg.norm(direction["w"], axis=others),
        np.linalg.norm(PARAMS["w"], axis=others),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(direction["b"], [0.0, 0.0])


def test_filters_of_a_convolution_are_its_output_channels():
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 5)) * jnp.arange(5.0)
    direction = filter_normalised(jnp.ones_like(kernel), kernel)
    norms = lambda x: np.sqrt(np.sum(np.square(x), axis=(0, 1, 2)))  # noqa: E731
    np.testing.assert_allclose(norms(direction), norms(kernel), rtol=1e-5)


def test_filters_of_stacked_layers_are_those_of_each_layer():
    scales = jnp.array([1.0, 10.0, 100.0, 1000.0])
    stacked = {"w": scales[:, None, None] * jnp.cos(jnp.arange(40.0)).reshape(4, 5, 2)}
    stacked["b"] = jnp.ones((4, 2))
    direction = random_direction(jax.random.key(0), stacked)
    together = filter_normalised(direction, stacked, filter_axis=(0, -1))
    apart = jax.vmap(filter_normalised)(direction, stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), together, apart)
    assert not together["b"].any()
    mixed = filter_normalised(direction, stacked)  # one filter across all layers
    assert not np.allclose(mixed["w"], apart["w"], rtol=0.1)
    with pytest.raises(ValueError, match="`filter_axis` must be axes of every leaf, got"):
        filter_normalised(direction, stacked, filter_axis=(0, 3))


def test_a_slice_in_normalised_directions_does_not_see_the_scale_of_a_filter():
    # w -> 10 w of a layer that is normalised away: only the normalised direction scales along
    scale_free = lambda w: jnp.sum(jnp.sin(w / jnp.linalg.norm(w, axis=0)))  # noqa: E731
    w, d = PARAMS["w"], OTHER["w"]
    at = jnp.linspace(-1, 1, 5)
    small, large = (
        loss_on_line(scale_free, k * w, filter_normalised(d, k * w), at) for k in (1, 10)
    )
    np.testing.assert_allclose(small, large, rtol=1e-4)


def test_random_directions_are_of_unit_length_and_differ():
    a, b = (random_direction(jax.random.key(seed), PARAMS) for seed in (0, 1))
    flat = lambda p: np.concatenate([np.ravel(x) for x in jax.tree.leaves(p)])  # noqa: E731
    np.testing.assert_allclose([flat(a) @ flat(a), flat(b) @ flat(b)], 1.0, rtol=1e-5)
    assert abs(flat(a) @ flat(b)) < 0.9


def test_three_solutions_lie_on_their_plane_at_their_distances():
    points = [jax.tree.map(lambda x, k=k: jnp.sin(k * x), PARAMS) for k in (1, 2, 3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *points)
    seen = jax.jit(lambda: project(plane_through(*points), stacked))()
    np.testing.assert_allclose(seen.distances, 0.0, atol=1e-5)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(p)]) for p in points]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(
            np.linalg.norm(seen.coordinates[i] - seen.coordinates[j]),
            np.linalg.norm(flat[i] - flat[j]),
            rtol=1e-4,
        )
    np.testing.assert_allclose(seen.coordinates[1, 1], 0.0, atol=1e-5)


def test_projection_onto_oblique_directions_is_least_squares():
    x, y = np.array([1.0, 2.0, 0.0, 1.0]), np.array([2.0, 0.0, 1.0, 1.0])
    points = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    origin = np.float32([1, 1, 0, 0])
    plane = Plane(*map(jnp.float32, (origin, x, y)))
    seen = jax.jit(project)(plane, jnp.asarray(points))
    expected, *_ = np.linalg.lstsq(np.stack([x, y], 1), (points - origin).T, rcond=None)
    np.testing.assert_allclose(seen.coordinates, expected.T, rtol=1e-3, atol=1e-4)
    left = np.linalg.norm((points - origin).T - np.stack([x, y], 1) @ expected, axis=0)
    np.testing.assert_allclose(seen.distances, left, rtol=1e-3, atol=1e-4)


def test_a_trajectory_is_seen_in_its_principal_plane():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 3)))[0]
    inside = np.array([[4.0, 1.0], [3.0, -1.0], [1.0, 0.7], [0.0, 0.0]])
    off = np.array([[0.0], [0.05], [0.0], [0.0]])
    points = (np.hstack([inside, off]) @ basis.T).astype(np.float32)
    trajectory = {"a": jnp.asarray(points[:, :2]), "b": jnp.asarray(points[:, 2:].reshape(4, 2, 2))}
    plane = jax.jit(plane_of_trajectory)(trajectory)
    seen = jax.jit(project)(plane, trajectory)
    np.testing.assert_allclose(seen.coordinates[-1], [0.0, 0.0], atol=1e-5)
    assert np.all(seen.coordinates[0] > 0)
    components = np.linalg.svd(points)[2]
    left = np.linalg.norm(points @ components[2:].T, axis=1)
    np.testing.assert_allclose(seen.distances, left, atol=1e-4)
    assert left.max() > 0.005
    found = np.concatenate([plane.x_direction["a"], plane.x_direction["b"].ravel()])
    np.testing.assert_allclose(abs(found @ components[0]), 1.0, rtol=1e-4)


def test_two_points_have_no_plane():
    with pytest.raises(ValueError, match=r"`plane_of_trajectory\(trajectory\)`.*got 2"):
        plane_of_trajectory(jnp.zeros((2, 3)))
