"""Systems are compared where each finds as much, whatever threshold they come with."""

from __future__ import annotations

import numpy as np

from framecls.recipes.compare_peers import System, set_recall


def test_a_threshold_alone_makes_no_system_better(rng: np.random.Generator) -> None:
    truths = [rng.random((400, 3)) < 0.4 for _ in range(5)]
    sure = [
        {"speech": (0.3 * rng.random(410) + 0.6 * np.append(t[:, 0], np.zeros(10))).astype(np.float32)} for t in truths
    ]
    shy = [{"speech": heard["speech"] ** 3} for heard in sure]  # the same order of frames, lower probabilities
    answers = []
    for heard in (sure, shy):
        system = set_recall(System(lambda samples: {}, {"speech": 0.5}), heard, truths, 0.9)
        said = [h["speech"][:400] >= system.thresholds["speech"] for h in heard]
        found = np.concatenate([s[t[:, 0]] for s, t in zip(said, truths, strict=True)])
        assert abs(found.mean() - 0.9) < 0.01
        answers.append(np.concatenate(said))
    np.testing.assert_array_equal(*answers)
    assert set(system.thresholds) == {"speech"}  # of what it hears
