"""Timelines of pooled models: which label holds when."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import framecls
from framecls.config import DecisionConfig, ReadOptions, TimelineConfig
from framecls.inference.engine import Engine
from framecls.inference.identify import choose_candidates
from framecls.inference.timeline import Steps, TimelineEngine, cut_segments, decide_steps, smooth
from framecls.model import Model
from framecls.nn.network import Network
from support.models import tiny_config
from support.signals import RATE, make_noise, make_swell


def pooled_model(**settings: object) -> Model:
    torch.manual_seed(5)
    return Model(Engine(Network(replace(tiny_config("pooled"), **settings)).eval(), torch.device("cpu")))  # type: ignore[arg-type]


@pytest.mark.parametrize("prior", [None, np.array([0.7, 0.2, 0.1])])
def test_smoothing_sums_over_all_paths(prior: np.ndarray | None) -> None:
    evidence = np.log(np.random.default_rng(1).dirichlet(np.ones(3), size=5))
    wanted, change = np.zeros((5, 3)), 0.2
    for path in itertools.product(range(3), repeat=5):
        likelihood = np.exp(sum(evidence[step, state] for step, state in enumerate(path)))
        likelihood *= 1 if prior is None else prior[path[0]]
        for before, after in itertools.pairwise(path):
            drawn = (before != after) / 2 if prior is None else prior[after]
            likelihood *= (1 - change) * (before == after) + change * drawn
        wanted[np.arange(5), path] += likelihood
    got = smooth(evidence, change, prior)
    np.testing.assert_allclose(got, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-9)


def test_a_step_says_what_its_span_alone_would() -> None:
    """With a frame-by-frame encoder a span of one step knows nothing of the rest of its window."""
    config = tiny_config("pooled")
    timeline = TimelineConfig(hop_s=0.4, span_s=0.4, overlap_s=0.4)
    model = pooled_model(encoder=replace(config.encoder, kind="fc"), timeline=timeline)
    engine = TimelineEngine(model._engine, model.config)
    assert (engine.step_s, engine.config.window.length_s) == (0.4, 2.0)
    samples = np.concatenate([make_swell(1.2), make_noise(1.2)])
    outputs = [output for recording in engine.run([samples], ReadOptions(sample_rate=RATE)) for output in recording]
    assert [len(output.logits) for output in outputs] == [5, 2]
    alone = model._engine.network
    margin, hop = model.config.features.margin_samples, round(0.4 * RATE)
    padded = np.pad(samples, margin)
    with torch.inference_mode():
        step = torch.from_numpy(padded[4 * hop : 5 * hop + 2 * margin])[None]
        wanted = alone(step, torch.tensor([20])).logits[0].numpy()
    np.testing.assert_allclose(outputs[0].logits[4], wanted, atol=1e-4)
    np.testing.assert_allclose(outputs[1].logits[0], wanted, atol=1e-4)


def steps_of(labels: list[int], heard: np.ndarray) -> tuple[Steps, np.ndarray]:
    scores = np.full((len(labels), 3), 0.05)
    scores[np.arange(len(labels)), labels] = 0.9
    return Steps(scores.astype(np.float32), heard, heard, hop_s=0.4, frame_s=0.02), scores


def test_segments_are_what_is_heard_and_change_in_pauses() -> None:
    heard = np.ones(500, np.bool_)
    heard[:25] = heard[225:245] = heard[300:305] = heard[450:] = False  # 0-0.5, 4.5-4.9, 6.0-6.1, 9-10 s
    steps, scores = steps_of([0] * 12 + [1] * 13, heard)
    config = tiny_config("pooled")
    decided = (scores.argmax(axis=1), scores)
    found = cut_segments(steps, decided, ("de", "en", "unknown"), config, 10.0)
    assert [(s.start, s.end, s.label) for s in found] == [(0.5, 4.5, "de"), (4.9, 9.0, "en")]
    assert found[0].score == pytest.approx(0.9)
    short = replace(config, decision=DecisionConfig(min_duration_s=4.05), timeline=TimelineConfig(min_gap_s=0.05))
    assert [s.label for s in cut_segments(steps, decided, ("de", "en", "unknown"), short, 10.0)] == []


def test_a_pooled_model_tags() -> None:
    model = pooled_model(timeline=TimelineConfig(hop_s=0.2, span_s=0.4, overlap_s=0.4))
    whole = model.tag(make_swell(5.03), sample_rate=RATE)
    assert (whole.hop, whole.scores.shape) == (0.2, (26, len(whole.labels)))
    assert whole.segments[0].label == whole.labels[0]
    assert (whole.segments[0].start, whole.segments[-1].end) == (0.0, 5.03)
    fewer = model.tag(make_swell(5.03), among=["de"], sample_rate=RATE, keep_scores=False)
    assert set(fewer.labels) <= {"de", "unknown"}
    assert not len(fewer.scores)
    assert fewer.outline is not None
    with pytest.raises(framecls.ConfigError, match="no label"):
        model.tag(make_swell(1.0), among=["xx"], sample_rate=RATE)
    assert model.tag(make_swell(0.05), sample_rate=RATE).duration == 0.05


def test_where_the_gate_hears_nothing_nobody_speaks() -> None:
    torch.manual_seed(3)
    gate = Network(replace(tiny_config("frame"), decision=DecisionConfig())).eval()
    torch.nn.init.zeros_(gate.head.weight)
    with torch.no_grad():
        gate.head.bias[0] = -1.0
    config = replace(tiny_config("pooled"), gate="speech")
    deaf = Model(Engine(Network(config).eval(), torch.device("cpu"), gate=gate))
    result = deaf.tag(make_swell(5.0), sample_rate=RATE)
    assert (result.segments, result.labels, result.duration) == ((), (), 5.0)
    assert result.notes == ("no speech is heard in it",)


def test_labels_are_decided_by_runs_as_recordings_are() -> None:
    """A blip of one step is smoothed away; what no label is likely for is unknown; silence changes nothing."""
    config = replace(
        tiny_config("pooled"),
        decision=DecisionConfig(thresholds={"unknown": 0.7}),
        timeline=TimelineConfig(weight=1.0, change=0.001, sharpness=1.0),
    )
    logits = np.zeros((30, 3), np.float32)
    logits[:12, 0] = logits[16:22, 1] = 4.0
    logits[5] = (0, 4, 0)
    logits[22:] = (0, 0, 1.5)
    heard = np.ones(1500, np.bool_)
    heard[600:800] = False  # steps 12 to 15
    steps = Steps(logits, heard, heard, hop_s=1.0, frame_s=0.02)
    states, scores = decide_steps(steps, config, choose_candidates(config, None))
    assert [*states[:12], *states[16:]] == [0] * 12 + [1] * 6 + [3] * 8
    assert set(states[12:16].tolist()) <= {0, 1}
    np.testing.assert_allclose(scores[0, :3].sum(), 1.0)
    assert scores[0, 0] > 0.9
    only = choose_candidates(config, ["en"])
    assert set(decide_steps(steps, config, only)[0].tolist()) == {0, 1}
