"""One line of mathematics for each method and wrapper, for lists of them.

g is the gradient at theta, u(v) = v / ||v||, and a prime marks the ascent point theta' = theta +
rho u(g) and what belongs to it. ghat(B) is what the estimator inside a wrapper says on a batch B.
"""

FORMULAS = {
    "erm": "g",
    "sam": "g' = g(theta + rho u(g))",
    "asam": "g(theta + rho T^2 g / ||T g||), T = |theta| + eta",
    "esam2": "g(theta + rho* u(g)), rho* = argmax_k L(theta + rho_k u(g))",
    "pgn": "(1 - alpha) g + alpha g'",
    "wsam": "(1 - a) g + a g', a = gamma / (1 - gamma)",
    "gsam": "g' - alpha (g - <g, u(g')> u(g'))",
    "looksam": "every k-th step g', else g + alpha ||g|| u(g_v), g_v = g' - <g', u(g)> u(g)",
    "rsam": "g(theta + D + rho u(g(theta + D))), D ~ gamma ||w_filter|| N(0, I)",
    "vasso": "g(theta + rho u(m)), m <- (1 - theta_m) m + theta_m g",
    "fsam": "g(theta + rho u(g - sigma m)), m <- lmbda m + (1 - lmbda) g",
    "xsam": "||g'|| v(alpha*), v from u(theta' - theta) to u(g'), "
    "alpha* = argmax L(theta + rho_m v)",
    "tilted_sampling": "sum_j w_j g(theta + eps_j), w = softmax(t L(theta + eps))",
    "tsam": "sum_j w_j g(p_j), p_j = theta + eps_j + rho u(g(theta + eps_j)), "
    "w = softmax((t - delta) L(p))",
    "from_paper": "tsam with rho_paper split: noise alpha rho_paper, ascent (1 - alpha) rho_paper",
    "tsam_hmc": "sum_j w_j g(theta + e_j), e_j by Hamiltonian steps towards exp(delta L) "
    "on the ball",
    "m_sam": "1/n sum_i ghat(B_i), the batch cut into B_1 .. B_n of m examples",
    "microbatched": "ghat(B), its L and g means over B_1 .. B_n of m examples",
    "per_device": "1/n sum_i ghat(B_i), B_i the share of device i of n",
}
"""Name -> formula of the gradient estimate."""
