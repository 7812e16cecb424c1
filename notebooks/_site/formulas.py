"""The formulas of `tsam_jax.methods.FORMULAS`, as LaTeX."""

LATEX = {
    "erm": r"g",
    "sam": r"g' = g(\theta + \rho\, u(g))",
    "asam": r"g\left(\theta + \rho \frac{T^2 g}{\lVert T g \rVert}\right), \ "
    r"T = \lvert \theta \rvert + \eta",
    "esam2": r"g(\theta + \rho^* u(g)), \ "
    r"\rho^* = \mathrm{argmax}_{\rho_k} L(\theta + \rho_k u(g))",
    "pgn": r"(1 - \alpha)\, g + \alpha\, g'",
    "wsam": r"(1 - a)\, g + a\, g', \ a = \frac{\gamma}{1 - \gamma}",
    "gsam": r"g' - \alpha \left(g - \langle g, u(g') \rangle\, u(g')\right)",
    "looksam": r"g' \text{ in every k-th step, else } g + \alpha \lVert g \rVert\, u(g_v), \ "
    r"g_v = g' - \langle g', u(g) \rangle\, u(g)",
    "rsam": r"g(\theta + \Delta + \rho\, u(g(\theta + \Delta))), \ "
    r"\Delta \sim \gamma \lVert w_{\mathrm{filter}} \rVert\, \mathcal{N}(0, I)",
    "vasso": r"g(\theta + \rho\, u(m)), \ m \leftarrow (1 - \vartheta)\, m + \vartheta\, g",
    "fsam": r"g(\theta + \rho\, u(g - \sigma m)), \ m \leftarrow \lambda m + (1 - \lambda)\, g",
    "xsam": r"\lVert g' \rVert\, v(\alpha^*), \ "
    r"v \text{ from } u(\theta' - \theta) \text{ to } u(g'), \ "
    r"\alpha^* = \mathrm{argmax}_\alpha L(\theta + \rho_m v(\alpha))",
    "tilted_sampling": r"\sum_j w_j\, g(\theta + \epsilon_j), \ "
    r"w = \mathrm{softmax}(t L(\theta + \epsilon))",
    "tsam": r"\sum_j w_j\, g(p_j), \ "
    r"p_j = \theta + \epsilon_j + \rho\, u(g(\theta + \epsilon_j)), \ "
    r"w = \mathrm{softmax}((1 - \delta)\, t L(p))",
    "from_paper": r"\text{tsam with noise of radius } \alpha \rho \text{ and an ascent of } "
    r"(1 - \alpha) \rho",
    "shared_tsam": r"\sum_j w_j\, g(p_j), \ p_j = \theta + \rho\, u(g) + \epsilon_j, \ "
    r"w = \mathrm{softmax}(t L(p))",
    "tsam_hmc": r"\sum_j w_j\, g(\theta + e_j), \ e_j \sim \exp(\delta t L(\theta + e)) "
    r"\text{ on the ball, by Hamiltonian steps}",
    "m_sam": r"\frac1n \sum_i \hat g(B_i), \ B_1, \ldots, B_n \text{ of m examples}",
    "microbatched": r"\hat g(B), \text{ with } L \text{ and } g \text{ the means over } "
    r"B_1, \ldots, B_n \text{ of m examples}",
    "per_device": r"\frac1n \sum_i \hat g(B_i), \ B_i \text{ the share of device i of n}",
}
"""Method or wrapper -> its estimate."""

COSTS = {
    "erm": "1",
    "sam": "steps + 1",
    "esam2": "2 + K losses",
    "looksam": "1 + 1/k",
    "xsam": "steps + 1 + a few losses",
    "tsam": "2s",
    "from_paper": "2s",
    "tilted_sampling": "s",
    "shared_tsam": "s + 1",
    "tsam_hmc": "s (steps · proposals + 1)",
    "m_sam": "that of the method inside",
    "microbatched": "that of the method inside",
    "per_device": "that of the method inside",
}
"""Method or wrapper -> its cost, where that is not 2."""
